"""Which of two answers is better: by the principles that they go against, and by a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ptft_jax.feedback.writing import Answer
from ptft_jax.rewards.base import Score, Unscored
from ptft_jax.rewards.ensemble import agreeing, spread


class Judged(NamedTuple):
    """An answer, how many principles it goes against, and what it is worth to what prefers one of two; None = there is no such verifier."""

    answer: Answer
    violations: int | None  # None = a check gave it no score
    value: Score | Unscored | None


def better(one: Judged, two: Judged) -> tuple[Judged, Judged] | str:
    """Both, the better one first; a word where that cannot be told, or not be learned."""
    if one.answer.text.strip() == two.answer.text.strip():
        return "equal"
    if not (one.answer.whole and two.answer.whole):
        return "unended"
    if one.violations is None or two.violations is None:
        return "unscored"
    if one.violations != two.violations:
        return (one, two) if one.violations < two.violations else (two, one)
    if isinstance(one.value, Unscored) or isinstance(two.value, Unscored):
        return "unscored"
    if one.value is None or two.value is None or one.value.value == two.value.value:
        return "undecided"
    return (one, two) if one.value.value > two.value.value else (two, one)


def agreement(columns: Sequence[Sequence[Score | Unscored | None]]) -> dict[str, Any]:
    """Of what prefers answers, where that are several reward models: how far they are apart, and how often two of them prefer the same one of
    two answers to a prompt, of such that they do not find equal."""
    groups = [[one.members for one in group if isinstance(one, Score)] for group in zip(*columns)]
    away = spread(one for group in groups for one in group)
    if away is None:
        return {}
    same, compared = (sum(counts) for counts in zip(*map(agreeing, groups)))
    return {"members": {"spread": away, "agreement": same / compared if compared else None, "compared": compared}}


def total(wrong: Sequence[bool | None]) -> int | None:
    """How many principles an answer goes against; None where that cannot be told of one."""
    return None if None in wrong else sum(map(bool, wrong))
