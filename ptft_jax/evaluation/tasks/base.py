"""What a measure of behavior is: questions, what a model says to them, and figures of that."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question


class Measured(NamedTuple):
    """What a task gives.

    Attributes:
      values: metrics by name.
      details: what pictures and tables are made of, of JSON's types.
    """

    values: dict[str, float]
    details: dict[str, Any]


class Behavior(abc.ABC):
    """A measure of behavior. Of the settings of `config.eval.behavior.NAME` it is given those of its entry, as arguments.

    Attributes:
      needs: what of a model it looks at, of `ptft_jax.evaluation.tasks.observed.PARTS`; that is computed once for all tasks.
      lacking: what questions it cannot be without, for the message that there are none.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    lacking: ClassVar[str] = "with a right answer"

    @property
    def parts(self) -> tuple[str, ...]:
        """`needs`, where its settings decide them."""
        return self.needs

    def takes(self, question: Question) -> bool:
        """Whether a question is one of its own."""
        return question.plain

    def check(self, questions: Sequence[Question]) -> None:  # noqa: B027
        """Raises UserError for questions, all of which it takes, that it cannot measure anything by. Called before anything is computed."""

    def also(self, question: Question) -> Sequence[Question]:
        """Further questions that are asked for one of its own, each with a `where` of its own."""
        return ()

    @abc.abstractmethod
    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        """The figures of the questions that it takes."""


def one_answer(question: Question) -> str:
    """Its one right answer. Raises UserError."""
    if not question.answers:
        raise question.error("answer", "it is missing: the question has no right answer")
    if not question.one:
        raise question.error(
            "answers",
            f"{len(question.answers)} are right, and one is asked for: name it in 'answer', or leave the task out",
        )
    return question.one


def right_option(question: Question) -> int:
    """The number of its one right option. Raises UserError."""
    some_options(question)
    if not question.answers:
        raise question.error("answer", "it is missing: none of the options is right")
    if question.right is None:
        raise question.error("options", "two of them are right: name the one in 'answer'")
    return question.right


def some_options(question: Question) -> None:
    """Raises UserError where there is nothing to choose from."""
    if not question.options:
        raise question.error("options", "they are missing: there is nothing to choose from")


def some_answer(question: Question) -> None:
    """Raises UserError where nothing is right."""
    if not question.answers:
        raise question.error("answer", "it is missing: the question has no right answer")


# What a question has to have for each measure of a question, and what of a model that is made of.
CHECKS: dict[str, Callable[[Question], object]] = {
    "recall": one_answer,
    "options": right_option,
    "extraction": some_answer,
    "probability": right_option,
    "first_option": some_options,
}
PARTS_OF = {
    "recall": "answer",
    "options": "options",
    "extraction": "text",
    "probability": "options",
    "first_option": "options",
}


def value_of(measure: str, question: Question, seen: Observed) -> float:
    """Whether a question is answered rightly, 1 or 0; or how probable that is."""
    if measure == "recall":
        return float(seen.answer(question).greedy)
    if measure == "extraction":
        return float(seen.is_right(question))
    if measure == "options":
        return float(seen.chosen(question) == question.right)
    if measure == "first_option":
        return float(seen.probabilities(question)[0])
    return float(seen.probabilities(question)[right_option(question)])
