"""Facts: whether the likeliest tokens are the answer, and whether what is written is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ptft_jax.evaluation.tasks.base import Behavior, Measured, one_answer, some_answer
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question


class Recall(Behavior):
    """ "accuracy": the share of questions each token of whose answer is the likeliest after those before it; "first": whose first token is;
    "log_prob": the mean log-probability of an answer, in nats."""

    needs: ClassVar[tuple[str, ...]] = ("answer",)

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            one_answer(question)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        found = [seen.answer(question) for question in questions]
        values = {
            "accuracy": float(np.mean([one.greedy for one in found])),
            "first": float(np.mean([one.first for one in found])),
            "log_prob": float(np.mean([one.log_prob for one in found])),
        }
        return Measured(values, {})


class Extraction(Behavior):
    """ "exact": the share of questions whose written answer is one of the right ones."""

    needs: ClassVar[tuple[str, ...]] = ("text",)

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            some_answer(question)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        return Measured({"exact": float(np.mean([seen.is_right(question) for question in questions]))}, {})
