"""Answers scored by several reward models at once, which say how far they agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier, of_several, scored_all
from ptft_jax.rewards.reward_model import RewardModel

_NAME = "ensemble"


class Member(RewardModel):
    """One of the reward models of an ensemble."""

    name: ClassVar[str] = _NAME
    remedy: ClassVar[str] = ": name the chat template that it is to be rendered by in rewards.ensemble.template"

    def __init__(self, run: str, number: int, template: str, batch_size: int, unscored: str):
        self.key, self.setting = of_several(_NAME, number), f"runs[{number}]"
        super().__init__(run, template, batch_size, unscored)


class Ensemble(Verifier):
    """What several reward models give an answer, as one number (Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization",
    section 3.2; Eisenstein et al. 2023, "Helping or Herding?", section 4): their mean, their minimum, or with `how` "uncertainty" their mean
    less `deviations` times their standard deviation over the members (Coste et al. take a multiple of the variance off).

    An answer that one of them gives no score has none.
    """

    several = True

    def __init__(
        self,
        runs: Sequence[str],
        how: str = "mean",
        deviations: float = 1.0,
        template: str = "",
        batch_size: int = 16,
        unscored: str = "raise",
    ):
        if len(runs) < 2:
            raise UserError(
                f"config.rewards.{_NAME}.runs names {len(runs)} reward {'model' if len(runs) == 1 else 'models'}: expected two or more; "
                "a single one is for rewards.reward_model"
            )
        if deviations != 1.0 and how != "uncertainty":
            raise UserError(
                f"config.rewards.{_NAME}.deviations = {deviations:g}: nothing is taken off with rewards.{_NAME}.how={how!r}: leave it at 1, or "
                "set how='uncertainty'"
            )
        self._how, self._deviations = how, deviations
        self._members = [Member(run, n, template, batch_size, unscored) for n, run in enumerate(runs)]
        known = [(member.source.name, member.source.step) for member in self._members]
        for n, one in enumerate(known):
            if one in known[:n]:
                raise UserError(f"config.rewards.{_NAME}.runs[{n}]: {one[0]} is named twice")
        self.batch, self.partial = batch_size, unscored == "drop"

    def check(self, task: Task) -> None:
        for member in self._members:
            member.check(task)

    def score(self, answer: str, task: Task) -> Score | Unscored:
        return self.score_all([answer], [task])[0]

    def score_all(self, answers: Sequence[str], tasks: Sequence[Task]) -> list[Score | Unscored]:
        found = [scored_all(_NAME, member, answers, tasks) for member in self._members]
        return [self._joined(scores) for scores in zip(*found)]

    def _joined(self, scores: Sequence[Score | Unscored]) -> Score | Unscored:
        values = []
        for score in scores:
            if isinstance(score, Unscored):
                return score
            values.append(score.value)
        away = float(np.std(values))
        mean = sum(values) / len(values)
        value = {"mean": mean, "min": min(values), "uncertainty": mean - self._deviations * away}[self._how]
        told = ", ".join(f"{value:g}" for value in values)
        return Score(value, f"{self._how} of {told}; deviation {away:g}", tuple(values))

    def models(self) -> dict[str, Any]:
        return {key: model for member in self._members for key, model in member.models().items()}

    def share(self, models: dict[tuple[str, str], Any]) -> None:
        for member in self._members:
            member.share(models)

    def notes(self) -> list[str]:
        return [note for member in self._members for note in member.notes()]


def spread(members: Iterable[Sequence[float]]) -> float | None:
    """The mean standard deviation over the members, of answers with the scores of each; None of no answer."""
    found = [float(np.std(one)) for one in members if len(one)]
    return sum(found) / len(found) if found else None


def agreeing(group: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Of answers to one prompt, by the scores of each member: how many (pair of answers, pair of members) there are of which both members
    prefer the same answer, and how many of which both prefer one. Answers to which a member gives the same score are no pair of its."""
    scores = np.array([one for one in group if len(one)])
    if len(scores) < 2:
        return 0, 0
    first, second = np.triu_indices(len(scores), 1)
    signs = np.sign(scores[first] - scores[second])  # [pairs, members]
    one, two = np.triu_indices(signs.shape[1], 1)
    both = signs[:, one] * signs[:, two]
    return int((both > 0).sum()), int((both != 0).sum())


def members_of(scores: Mapping[str, Any]) -> Sequence[float]:
    """The scores of the members of an ensemble, of an answer's row; () where none was asked, or gave none."""
    return next((score["members"] for score in scores.values() if score.get("members")), ())
