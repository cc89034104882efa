"""How many of a file of principles an answer keeps, as a reward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ptft_jax.config.field import number
from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards import constitution
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier
from ptft_jax.rewards.constitution import Check, Principle
from ptft_jax.rewards.of_parts import OfParts
from ptft_jax.runs import source as restore

_FIELD = "config.rewards.principles"
_STEP = re.compile(r"@\d+(#[^#]*)?$")  # of a reference to a run


class Principles(OfParts):
    """The weights of the principles whose checks an answer keeps, over those of all that have a check: from 0 to 1."""

    def __init__(self, file: str, weights: Sequence[tuple[str, float]], unscored: str, plugins: tuple[str, ...] = ()):
        """`plugins`: of the config, whose verifiers checks may name. Raises UserError for a file that cannot be read or has no checks, and
        for weights of what is not there."""
        if not file:
            raise UserError(f"{_FIELD}.file is '': a file of principles, TOML or JSON, whose checks are counted")
        found = constitution.read(file)
        self._file, self._drops = file, unscored == "drop"
        self._checks: dict[str, Check] = {one.name: one.check for one in found if one.check is not None}
        self._unchecked = [one.name for one in found if one.check is None]
        if not self._checks:
            raise UserError(
                f"{_FIELD}.file = {file!r}: no principle has a check, so nothing says whether an answer keeps one"
            )
        self._weights = self._weighed(weights)
        self.partial = self._drops
        super().__init__({one.name: self._made(one, plugins) for one in found if one.check is not None})

    def _weighed(self, weights: Sequence[tuple[str, float]]) -> dict[str, float]:
        given = dict(weights)
        for name, weight in weights:
            if name not in self._checks:
                why = "has no check" if name in self._unchecked else f"is not in {self._file}"
                raise UserError(f"{_FIELD}.weights: {name!r} {why}{nearest(name, self._checks)}")
            if wrong := number(weight) or ("" if weight > 0 else f"{weight:g}: expected a number above 0"):
                raise UserError(f"{_FIELD}.weights: {name!r}: {wrong}")
        if len(given) < len(weights):
            raise UserError(f"{_FIELD}.weights: a principle is named twice")
        return {name: float(given.get(name, 1.0)) for name in self._checks}

    def _made(self, principle: Principle, plugins: tuple[str, ...]) -> Verifier:
        where = f"{self._file}: principle {principle.name!r}: check"
        assert principle.check is not None
        settings = principle.check.settings
        try:
            part = principle.verifier(plugins)
        except UserError as e:
            raise UserError(f"{where}: {e}") from e
        for reference in (settings.get("run", ""), *settings.get("runs", ())):
            if reference and not restore.is_reference(reference) and not _STEP.search(reference):
                raise UserError(
                    f"{where}: {reference!r} may be another checkpoint later, and rewards of two models do not compare: name a step of it "
                    "(RUN@STEP), or ask it by a verifier of its own (rewards.combined)"
                )
        return part

    def joined(self, found: Mapping[str, Score | Unscored], task: Task) -> Score | Unscored:
        against = []
        for name, score in found.items():
            if isinstance(score, Unscored):
                if self._drops:
                    return Unscored(f"{name}: {score.reason}")
                raise UserError(
                    f"{task.where}: principle {name!r}: its check gave no score: {score.reason}; rewards.principles.unscored='drop' leaves such "
                    "answers out, and counts them"
                )
            if not self._checks[name].keeps(score.value):
                against.append(name)
        kept = sum(weight for name, weight in self._weights.items() if name not in against)
        return Score(kept / sum(self._weights.values()), f"against {', '.join(against)}" if against else "keeps all")

    def strictly(self) -> None:
        self._drops = self.partial = True  # its checks are strict already

    def notes(self) -> list[str]:
        left = [f"principles without a check are not counted: {', '.join(self._unchecked)}"] if self._unchecked else []
        return [*left, *super().notes()]
