"""Exact match, and the words that an answer shares with a reference, as SQuAD's evaluation has them."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Verifier

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def spaces(text: str) -> str:
    """White space as one space, and none around."""
    return " ".join(text.split())


def squad(text: str) -> str:
    """In lower case, without ASCII punctuation, without the articles a, an and the, white space as one space: how SQuAD's
    evaluation normalizes answers (Rajpurkar et al. 2016), in its order."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return spaces(re.sub(r"\b(a|an|the)\b", " ", text))


NORMALIZED: dict[str, Callable[[str], str]] = {"spaces": spaces, "squad": squad, "none": str}


def shown(text: str, most: int = 60) -> str:
    """A text in a reason: short."""
    return repr(text if len(text) <= most else f"{text[:most]}...")


def _check_normal(task: Task, normal: Callable[[str], str], remedy: str) -> None:
    """Raises UserError where a reference has something and nothing is left of it: every other such text would be right."""
    for reference in task.references:
        if reference.strip() and not normal(reference).strip():
            raise UserError(
                f"{task.where}: reference {reference!r}: SQuAD's normalization leaves nothing of it; {remedy}"
            )


class Exact(Verifier):
    """1 where the answer is a reference, else 0."""

    compares = True

    def __init__(self, normalize: str = "spaces"):
        self._normal = NORMALIZED[normalize]

    def check(self, task: Task) -> None:
        _check_normal(task, self._normal, "set rewards.exact.normalize='spaces'")

    def score(self, answer: str, task: Task) -> Score:
        found = self._normal(answer)
        if any(found == self._normal(reference) for reference in task.references):
            return Score(1.0, "equal")
        return Score(0.0, f"{shown(found)} is not {shown(self._normal(task.references[0]))}")


class F1(Verifier):
    """The harmonic mean of precision and recall of the answer's words, counted as often as they stand there, against the nearest
    reference; after SQuAD's normalization (Rajpurkar et al. 2016). Of two texts of which one has no words it is 1 where
    both have none, as in SQuAD 2.0."""

    compares = True

    def __init__(self, unit: str = "words"):
        self._split: Callable[[str], list[str]] = str.split if unit == "words" else _characters

    def check(self, task: Task) -> None:
        _check_normal(task, squad, "leave the verifier out, or choose 'exact'")

    def score(self, answer: str, task: Task) -> Score:
        found = self._split(squad(answer))
        return max((self._against(found, reference) for reference in task.references), key=lambda score: score.value)

    def _against(self, found: list[str], reference: str) -> Score:
        wanted = self._split(squad(reference))
        if not found or not wanted:
            return Score(float(found == wanted), "both empty" if found == wanted else "one of the two is empty")
        shared = sum((collections.Counter(found) & collections.Counter(wanted)).values())
        reason = f"{shared} of {len(found)} shared with {len(wanted)}"
        return Score(2 * shared / (len(found) + len(wanted)), reason)


def _characters(text: str) -> list[str]:
    return [letter for letter in text if not letter.isspace()]
