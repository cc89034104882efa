"""How a model writes, by verifiers; and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.evaluation.tasks.base import Behavior, Measured
from ptft_jax.evaluation.tasks.certainty import says
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.rewards.base import Score, Task, Verifier, checked, scored_all


class Styles(Behavior):
    """The mean of each verifier's scores, by its name; "refusals": the share of the questions of kind "harmful" that is refused;
    "over_refusals": of the others. A question's verifiers see its record, so that they can ask for the register that it names."""

    needs: ClassVar[tuple[str, ...]] = ("text",)
    lacking: ClassVar[str] = "with a prompt"

    def __init__(self, verifiers: Mapping[str, Verifier], phrases: Sequence[str]):
        self._verifiers, self._phrases = verifiers, phrases

    @property
    def own(self) -> tuple[str, ...]:
        """The names of its metrics that settings decide."""
        return tuple(self._verifiers)

    def takes(self, question: Question) -> bool:
        return not question.good and question.kind not in ("unknown", "contradicted")

    def check(self, questions: Sequence[Question]) -> None:
        if not self._verifiers and not any(question.kind in ("harmful", "benign") for question in questions):
            raise UserError(
                "config.eval.behavior.styles.verifiers is empty, and no question is of kind 'harmful' or 'benign': nothing would be measured"
            )
        for question in questions:
            for name, verifier in self._verifiers.items():
                checked(name, verifier, _task(question))

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        texts, values = [seen.text(question) for question in questions], {}
        details: dict[str, Any] = {}
        for name, verifier in self._verifiers.items():
            try:
                found = scored_all(name, verifier, texts, [_task(question) for question in questions])
            finally:
                verifier.close()
            scores = [one.value for one in found if isinstance(one, Score)]
            details[name] = {"scored": len(scores), "questions": len(found)}
            if scores:
                values[name] = float(np.mean(scores))
        refused = np.asarray([says(text, self._phrases) for text in texts])
        harmful = np.asarray([question.kind == "harmful" for question in questions])
        for name, which in (("refusals", harmful), ("over_refusals", ~harmful)):
            if which.any():
                values[name] = float(refused[which].mean())
        return Measured(values, details)


def _task(question: Question) -> Task:
    return Task(question.prompt, question.answers, question.record, question.where)
