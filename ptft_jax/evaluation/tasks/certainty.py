"""How sure a model is, and whether it has reason to be: known against unknown, abstention, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.evaluation.tasks.base import Behavior, Measured, right_option, some_answer
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.statistics import Bin, auroc, brier, expected_error, reliability, risk_coverage


def says(text: str, phrases: Sequence[str]) -> bool:
    """Whether a text has one of these phrases, in whatever case."""
    text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return any(phrase.lower() in text for phrase in phrases)


class Known(Behavior):
    """Questions whose answer a model could know among such that it could not (`kind` is "unknown"), which may have one: a lucky guess is not
    wrong.

    "auroc": of confidence, of the known ones against the others. "hallucination": the share of all questions that are answered, and wrongly;
    "hallucination_unknown": of those that cannot be answered. "abstained": the share that is not answered; "abstained_known": of the known ones.
    "accuracy": the share of the known ones that is answered rightly. "risk": the share of what is answered that is wrong; "aurc": its mean over
    coverages, the most confident answers first (Geifman & El-Yaniv 2017). Both are left out where nothing is answered.
    """

    lacking: ClassVar[str] = "that are known or not"

    def __init__(self, confidence: str, phrases: Sequence[str], threshold: float):
        self._confidence, self._phrases, self._threshold = confidence, phrases, threshold

    @property
    def parts(self) -> tuple[str, ...]:
        return ("text", "options" if self._confidence == "options" else "first")

    def takes(self, question: Question) -> bool:
        return question.plain or question.kind == "unknown"

    def check(self, questions: Sequence[Question]) -> None:
        unknown = [question.kind == "unknown" for question in questions]
        for which, there in (("unknown", any(unknown)), ("known", not all(unknown))):
            if not there:
                raise questions[0].error(
                    "kind", f"no question of the source is {which!r}: the two are held against each other"
                )
        for question in questions:
            if question.kind != "unknown":
                some_answer(question)
            if self._confidence == "options" and not question.options:
                raise question.error("options", "they are missing: how sure a model is is read off them")

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        known = np.asarray([question.kind != "unknown" for question in questions])
        sure = np.asarray([self._sure(question, seen) for question in questions])
        right = np.asarray([seen.is_right(question) for question in questions])
        told = np.asarray([says(seen.text(question), self._phrases) for question in questions])
        silent = told | (sure < self._threshold)
        wrong = ~right & ~silent
        values = {
            "auroc": auroc(sure, known),
            "hallucination": float(wrong.mean()),
            "hallucination_unknown": float(wrong[~known].mean()),
            "abstained": float(silent.mean()),
            "abstained_known": float(silent[known].mean()),
            "accuracy": float((right & ~silent)[known].mean()),
        }
        curve = risk_coverage(sure[~silent], wrong[~silent]) if not silent.all() else np.zeros(0)
        if len(curve):
            values |= {"risk": float(curve[-1]), "aurc": float(curve.mean())}
        points = [[(n + 1) / len(questions), risk] for n, risk in enumerate(curve.tolist())]
        return Measured(values, {"risk_coverage": points, "confidence": self._confidence})

    def _sure(self, question: Question, seen: Observed) -> float:
        if self._confidence == "options":
            return float(seen.probabilities(question).max())
        first = seen.first(question)
        return math.exp(-first.entropy) if self._confidence == "entropy" else first.sure


class Calibration(Behavior):
    """Probabilities of options among themselves: "ece" with bins of equal width, "ece_equal_mass" (Guo et al. 2017), "brier", the mean
    "confidence" in what is chosen, and the "accuracy" of that."""

    needs: ClassVar[tuple[str, ...]] = ("options",)

    def __init__(self, bins: int):
        self._bins = bins

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            right_option(question)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        rows = [seen.probabilities(question) for question in questions]
        right = [right_option(question) for question in questions]
        sure = [float(row.max()) for row in rows]
        chosen = [seen.chosen(question) == r for question, r in zip(questions, right)]
        wide, massive = (reliability(sure, chosen, self._bins, equal_mass) for equal_mass in (False, True))
        values = {
            "ece": expected_error(wide),
            "ece_equal_mass": expected_error(massive),
            "brier": brier(rows, right),
            "confidence": float(np.mean(sure)),
            "accuracy": float(np.mean(chosen)),
        }
        details: dict[str, Any] = {"bins": self._bins, "equal_width": _shown(wide), "equal_mass": _shown(massive)}
        return Measured(values, details)


def _shown(bins: Sequence[Bin]) -> list[dict[str, float]]:
    return [one._asdict() for one in bins]
