"""What can be read linearly off the hidden states of each layer (Alain & Bengio 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ptft_jax.evaluation.tasks.base import Behavior, Measured, one_answer
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.statistics import ridge_accuracy


class Probe(Behavior):
    """The accuracy on held-out questions of a linear classifier (ridge regression) on the stream behind each layer: "last": behind the last
    one, "best": the largest. Which questions are held out follows from their number alone."""

    needs: ClassVar[tuple[str, ...]] = ("streams",)

    def __init__(self, label: str, at: str, held_out: float, ridge: float):
        self._label, self.at, self._held_out, self._ridge = label, at, held_out, ridge

    def takes(self, question: Question) -> bool:
        return not question.good and question.record.get(self._label) is not None if self._label else question.plain

    def check(self, questions: Sequence[Question]) -> None:
        train, test = self._split(len(questions))
        labels = [self._class(question) for question in questions]
        if not len(train) or not len(test):
            raise questions[0].error(
                self._label or "answer",
                f"{len(questions)} questions: with eval.behavior.probe.held_out = {self._held_out:g} none is left to "
                f"{'learn from' if not len(train) else 'measure by'}",
            )
        if len({labels[n] for n in train}) == 1:
            raise questions[0].error(
                self._label or "answer", f"{labels[0]!r} is the only class: there is nothing to tell apart"
            )

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        train, test = self._split(len(questions))
        labels = [self._class(question) for question in questions]
        numbers = {label: n for n, label in enumerate(sorted({labels[n] for n in train}))}
        unseen = len(numbers)  # a class that is in no question that is learned from is never right
        classes = np.asarray([numbers.get(label, unseen) for label in labels])
        streams = np.stack([seen.streams(question) for question in questions], axis=1)
        layers = [ridge_accuracy(one[train], classes[train], one[test], classes[test], self._ridge) for one in streams]
        chance = float(np.mean(classes[test] == np.bincount(classes[train]).argmax()))
        details = {"layers": layers, "majority": chance, "learned_from": len(train), "held_out": len(test)}
        return Measured({"best": max(layers), "last": layers[-1]}, details)

    def _class(self, question: Question) -> str:
        return str(question.record[self._label]) if self._label else one_answer(question)

    def _split(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of those that are learned from, and of those that are held out."""
        order = np.random.default_rng(0).permutation(count)
        held = round(count * self._held_out)
        return np.sort(order[held:]), np.sort(order[:held])
