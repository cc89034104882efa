"""What a verifier is: a function of an answer and what is known of its question, to a number and why it is that."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ptft_jax.errors import UserError


class Task(NamedTuple):
    """A question that was answered.

    Attributes:
      prompt: what the model was given, as text.
      references: answers that are right, any of which counts; at least one.
      record: the record of the data source, column -> value.
      where: its place, for messages: "questions.jsonl, line 3".
    """

    prompt: str
    references: tuple[str, ...]
    record: Mapping[str, Any]
    where: str


class Score(NamedTuple):
    """A finite number, larger for better answers, in most verifiers from 0 to 1; and why, in words."""

    value: float
    reason: str


class Verifier(abc.ABC):
    """Scores answers. Of the settings of `config.rewards.NAME` it is given those of its entry, as arguments."""

    def check(self, task: Task) -> None:  # noqa: B027
        """Raises UserError where no answer to this task can be scored, because of what its record has. Called before anything is
        generated."""

    @abc.abstractmethod
    def score(self, answer: str, task: Task) -> Score:
        """The score of an answer, which may be any text. Whatever a model writes is scored, and never an error."""

    def notes(self) -> list[str]:
        """What people should know of it before it begins."""
        return []

    def close(self) -> None:  # noqa: B027
        """Ends processes of its own; it may be used again after that."""


class Function(Verifier):
    """A plain function of (answer, task) to a number, or to a number and a reason."""

    def __init__(self, function: Callable[[str, Task], Any]):
        self._function = function

    def score(self, answer: str, task: Task) -> Score:
        found = self._function(answer, task)
        value, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
        return Score(value, str(reason))


def scored(name: str, verifier: Verifier, answer: str, task: Task) -> Score:
    """The score of the verifier called `name`. Raises UserError, with the task's place, for one that is no finite number, and for what
    a verifier raises: it is the verifier that is at fault, not the answer."""
    try:
        value, reason = verifier.score(answer, task)
        value = float(value)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{task.where}: verifier {name!r} failed: {type(e).__name__}: {e}") from e
    if not math.isfinite(value):
        raise UserError(f"{task.where}: verifier {name!r} gave {value}: a score is a finite number")
    return Score(value, reason)
