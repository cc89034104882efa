"""Training rows of a model's own answers, or the data's, with what a teacher predicts at each of their tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import ENDED
from ptft_jax.objectives.distill import LOG_PROBS
from ptft_jax.objectives.own_answers import SPARE
from ptft_jax.training.answer_facts import Row, mismatch
from ptft_jax.training.answer_rows import blank, put
from ptft_jax.training.prompts import Asks
from ptft_jax.training.reference import Asked, like
from ptft_jax.training.rollouts import Rollouts

SHARE = "objective.on_policy.share"


class Taught(Rollouts):
    """As `Rollouts`, of answers that no verifier scores: each batch has what a teacher predicts at the ids that were sampled. Of some
    rollouts, as the seed has it, the answers are the data's.

    A run that goes on in the middle of a rollout asks the teacher again, which is the same.

    Attributes:
      teacher: that is asked; set before the first batch is.
    """

    teacher: Asked | None = None

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        if jax.process_count() > 1:
            raise UserError(
                f"config.objective.name = {config.objective.name!r}: it asks a teacher at each step, on one device, and is for a single process"
            )
        return Asks(config.data.batch_size, 1, rewarded=False)

    def _configure(self, config: configs.Section) -> None:
        self._share = config.objective.on_policy.share
        self._configure_checks(config)

    def _writes(self, number: int) -> bool:
        """Whether the model itself writes the answers of a rollout."""
        return mixed(self._seed, Use.WRITER, number) < self._share * 2**32

    def _made(self, number: int, whole: Any) -> list[Row]:
        return super()._made(number, whole) if self._writes(number) else []

    def _begun(self, number: int, whole: Any, middle: bool) -> list[Row]:
        return super()._begun(number, whole, middle) if self._writes(number) else []

    def _kept(self, number: int, step: int) -> list[Row]:
        return super()._kept(number, step) if self._writes(number) else []

    def _score(self, number: int, tasks: Any, rows: list[Row]) -> None:
        """Nobody scores them."""

    def _reward(self, rows: list[Row], whole: Any) -> None:
        """There is nothing to reward."""

    # Arrays

    def _bare(self, count: int) -> Rows:
        """A batch that has no answers, and that nobody has been asked about."""
        facts = {name: np.zeros(count, np.float32) for name in (SPARE, "written", "ended", "mismatch")}
        return blank(count, self._length) | facts

    def _empty(self, count: int) -> Rows:
        out = self._bare(count)
        forms = like(self._trainer, self._bare(1))
        return out | {name: np.zeros((count, *form.shape[1:]), form.dtype) for name, form in forms.items()}

    def _batch(self, number: int, rows: list[Row], whole: Any) -> Rows:
        batch = self._arrays(rows) if rows else {**self._bare(self._size), **self._drawn[number]}
        return batch | self._said(number, rows, batch, whole)

    def _arrays(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        out = self._bare(len(rows))
        out["written"][:], out["mismatch"][:] = 1, mismatch(rows)
        for n, row in enumerate(rows):
            put(out, n, row["ids"], row["prompt_tokens"])
            out["ended"][n] = row["reason"] in ENDED
        return out

    def _said(self, number: int, rows: Sequence[Row], batch: Rows, whole: Any) -> Rows:
        """What the teacher predicts at each target of a batch."""
        assert self.teacher is not None, "a run's teacher is there before its first batch"
        return in_parts(self._of_teacher, batch, self.teacher.rows, self.check)

    @functools.cached_property
    def _of_teacher(self) -> Callable[[Rows], Rows]:
        """What the teacher makes of the rows of a part; compiled once."""
        assert self.teacher is not None
        asked, objective = self.teacher, self._objective
        model, params = asked.load()
        compiled = jax.jit(lambda params, batch: objective.reference_of(model, params, batch))
        return lambda batch: finite(jax.device_get(compiled(params, asked.place(batch))), asked.field, asked.says)


def in_parts(ask: Callable[[Rows], Rows], batch: Rows, size: int, check: Callable[[], None]) -> Rows:
    """What `ask` gives of a batch, `size` rows at a time; `check` is called before each part, and may raise."""
    found = []
    for first in range(0, len(batch["inputs"]), size):
        check()
        found.append(ask({name: values[first : first + size] for name, values in batch.items()}))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def finite(said: Rows, field: str, says: str) -> Rows:
    """Raises UserError where what a teacher says is not finite."""
    if not np.isfinite(said[LOG_PROBS]).all():
        raise UserError(
            f"{field}: {says} are not finite: that model's parameters, or its dtype, do not suit these rows"
        )
    return said
