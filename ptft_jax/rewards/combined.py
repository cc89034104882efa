"""A weighted sum of verifiers."""

from __future__ import annotations

from collections.abc import Mapping

from ptft_jax.config.field import number
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Verifier, scored


class Combined(Verifier):
    """The sum of weight * score of others. A weight below 0 makes a penalty of a score."""

    def __init__(self, parts: Mapping[str, Verifier], weights: Mapping[str, float]):
        if not parts:
            raise UserError("config.rewards.combined.parts is (): it says what is added, ((verifier, weight), ...)")
        for name, weight in weights.items():
            if wrong := number(weight) or ("" if weight else "0: it adds nothing; leave the verifier out"):
                raise UserError(f"config.rewards.combined.parts: the weight of {name!r}: {wrong}")
        self._parts, self._weights = parts, weights

    def check(self, task: Task) -> None:
        for part in self._parts.values():
            part.check(task)

    def score(self, answer: str, task: Task) -> Score:
        found = {name: scored(name, part, answer, task) for name, part in self._parts.items()}
        total = sum(self._weights[name] * score.value for name, score in found.items())
        return Score(total, "; ".join(f"{name} {score.value:g}: {score.reason}" for name, score in found.items()))

    def notes(self) -> list[str]:
        return [note for part in self._parts.values() for note in part.notes()]

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
