"""A weighted sum of verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.config.field import number
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier
from ptft_jax.rewards.of_parts import OfParts


class Combined(OfParts):
    """The sum of weight * score of others. A weight below 0 makes a penalty of a score."""

    def __init__(self, parts: Mapping[str, Verifier], weights: Mapping[str, float]):
        if not parts:
            raise UserError("config.rewards.combined.parts is (): it says what is added, ((verifier, weight), ...)")
        for name, weight in weights.items():
            if wrong := number(weight) or ("" if weight else "0: it adds nothing; leave the verifier out"):
                raise UserError(f"config.rewards.combined.parts: the weight of {name!r}: {wrong}")
        super().__init__(parts)
        self._weights = weights
        self.partial = any(part.partial for part in parts.values())
        self.several = any(part.several for part in parts.values())

    def joined(self, found: Mapping[str, Score | Unscored], task: Task) -> Score | Unscored:
        reasons, total, members = [], 0.0, ()
        for name, score in found.items():
            if isinstance(score, Unscored):
                return Unscored(f"{name}: {score.reason}")
            total += self._weights[name] * score.value
            members = members or score.members
            reasons.append(f"{name} {score.value:g}: {score.reason}")
        return Score(total, "; ".join(reasons), members)

    def models(self) -> dict[str, Any]:
        return {name: model for part in self._parts.values() for name, model in part.models().items()}

    def strictly(self) -> None:
        for part in self._parts.values():
            part.strictly()
        self.partial = any(part.partial for part in self._parts.values())
