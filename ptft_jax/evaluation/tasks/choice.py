"""Choices between options: which is the likeliest, their shares, and the better one of two sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ptft_jax.evaluation.tasks.base import Behavior, Measured, right_option
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.statistics import divergence, total_variation


class Choice(Behavior):
    """ "accuracy": the share of questions whose likeliest option is right; "accuracy_by_length": likewise by the log-probability per character
    of an option (as lm-evaluation-harness' acc_norm); "probability": the mean probability of the right one among the options."""

    needs: ClassVar[tuple[str, ...]] = ("options",)

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            right_option(question)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        rows = [
            (
                seen.chosen(q) == q.right,
                _longest(seen.options(q), q.options) == q.right,
                seen.probabilities(q)[right_option(q)],
            )
            for q in questions
        ]
        means = np.mean(np.asarray(rows, np.float64), axis=0).tolist()
        return Measured(dict(zip(("accuracy", "accuracy_by_length", "probability"), means)), {})


def _longest(log_probs: Sequence[float], texts: Sequence[str]) -> int:
    """The option with the largest log-probability per character."""
    return int(np.argmax([log_prob / len(text) for log_prob, text in zip(log_probs, texts)]))


class Shares(Behavior):
    """Questions that sources answer in several ways, each to a share: "kl": the mean of KL(shares || probabilities of the options among
    themselves), in nats; "total_variation": likewise."""

    needs: ClassVar[tuple[str, ...]] = ("options",)
    lacking: ClassVar[str] = "with 'shares'"

    def takes(self, question: Question) -> bool:
        return bool(question.shares)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        pairs = [(q.shares, seen.probabilities(q).tolist()) for q in questions]
        values = {
            "kl": float(np.mean([divergence(q.shares, seen.options(q)) for q in questions])),
            "total_variation": float(np.mean([total_variation(*pair) for pair in pairs])),
        }
        points = [[share, p] for shares, found in pairs for share, p in zip(shares, found)]
        return Measured(values, {"points": points})


class MinimalPairs(Behavior):
    """Pairs of sentences (BLiMP; Warstadt et al. 2020): "accuracy": the share in which the good one is likelier; "accuracy_by_length": likewise
    per character."""

    needs: ClassVar[tuple[str, ...]] = ("pair",)
    lacking: ClassVar[str] = "that are a 'good' and a 'bad' sentence"

    def takes(self, question: Question) -> bool:
        return bool(question.good)

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        found = [(seen.pair(q), (len(q.good), len(q.bad))) for q in questions]
        values = {
            "accuracy": float(np.mean([good > bad for (good, bad), _ in found])),
            "accuracy_by_length": float(np.mean([good / n > bad / m for (good, bad), (n, m) in found])),
        }
        return Measured(values, {})
