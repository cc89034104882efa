"""Which prompts a rollout has, where these do not follow from its number alone: none is lost, and none is asked twice."""

from __future__ import annotations

from typing import Any

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.runs.source import Source
from ptft_jax.training.rollout_files import Files

# Sections that say what answers are, and how they are rewarded.
_OF_ANSWERS = ("seed", "objective", "rewards", "tools")
_OF_ROWS = ("batch_size", "length")


class Order:
    """The prompts of a run's rollouts in their order, also of a run that goes on from another (`init.optimizer`)."""

    def __init__(
        self, config: configs.Section, files: Files, key: str, *, again: int, first_step: int, other: Source | None
    ):
        """
        Args:
          key: what the training data are known by.
          again: how often prompts are drawn again in a rollout.
          first_step: what the run begins with, from `other`, where it goes on from that.
        """
        self._config, self._files, self._key, self._again = config, files, key, again
        self._first_step, self._other = first_step, other
        self._updates = config.objective.policy.updates

    def first(self, number: int, count: int) -> int:
        """The number of the first prompt of a rollout that has `count`. Where prompts are drawn again it follows that of the last one of the
        rollout before. Raises UserError where nobody knows that one."""
        if not self._again:
            return number * count
        begins = number == self._first_step // self._updates
        if begins and (self._other is None or not number or not self._drew_again(self._other)):
            return number * count
        files = self._of_other(self._other) if begins and self._other is not None else self._files
        before = files.read(number - 1)
        if not before:
            another = (
                "without init.optimizer"
                if begins
                else f"--config.init.from={self._files.workdir} --config.init.optimizer=True"
            )
            raise UserError(
                f"{files.path(number - 1)}: is not there, or is another run's, so that nobody knows which prompts were asked before step "
                f"{number * self._updates + 1}: put it back, or begin another run: {another}"
            )
        return before[-1]["number"] + 1

    def begun(self, number: int) -> list[dict[str, Any]] | None:
        """The answers of the rollout in the middle of which another run was left, for this one to learn from as that one would have. None
        where answers are to be others, or others' scores. Raises UserError where they are not there."""
        other = self._other
        if other is None or self._asks(other.config) != self._asks(self._config) or not self._same_data(other):
            return None
        files = self._of_other(other)
        rows = files.read(number)
        if rows is None:
            raise UserError(
                f"{files.path(number)}: is not there, or is another run's: {other.name} was left in the middle of learning from these answers, and "
                "their prompts would be asked twice: put it back, or begin another run: without init.optimizer"
            )
        return rows

    def _asks(self, config: configs.Section) -> list[Any]:
        """What two runs that have the same answers have alike."""
        values = config.as_dict()
        values["objective"]["policy"]["max_mismatch"] = 0.0
        return [*(values[name] for name in _OF_ANSWERS), *(values["data"][name] for name in _OF_ROWS)]

    def _same_data(self, other: Source) -> bool:
        return other.config.objective.policy.updates == self._updates and other.meta.get("data") == self._key

    def _drew_again(self, other: Source) -> bool:
        """Whether a run that this one goes on from asked prompts of the same data out of their turn."""
        return bool(other.config.objective.policy.resample) and self._same_data(other)

    def _of_other(self, other: Source) -> Files:
        return Files(other.workdir, self._updates, self._key)
