"""What a verifier is: a function of an answer and what is known of its question, to a number and why it is that."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ptft_jax.errors import UserError

if TYPE_CHECKING:
    from ptft_jax.data.turns import Conversation

_SEVERAL = "/"  # between a verifier's name and the number of one of its models


class Task(NamedTuple):
    """A question that was answered.

    Attributes:
      prompt: what the model was given, as text.
      references: answers that are right, any of which counts; none where a prompt came alone, or with a bad answer.
      record: the record of the data source, column -> value.
      where: its place, for messages: "questions.jsonl, line 3".
      conversation: what was asked as turns, without an answer; None where the prompt is a plain text.
    """

    prompt: str
    references: tuple[str, ...]
    record: Mapping[str, Any]
    where: str
    conversation: Conversation | None = None

    @property
    def reference(self) -> str | list[str] | None:
        """The right answer, or all of several, as rows of answers have it."""
        return list(self.references) if len(self.references) > 1 else next(iter(self.references), None)


class Score(NamedTuple):
    """A finite number, larger for better answers, in most verifiers from 0 to 1; why, in words; and of an ensemble what each of its members
    gave."""

    value: float
    reason: str
    members: tuple[float, ...] = ()


class Unscored(NamedTuple):
    """In the place of a score: there is none, which is no 0, and why. Such answers are counted, and no part of a mean."""

    reason: str


class Verifier(abc.ABC):
    """Scores answers. Of the settings of `config.rewards.NAME` it is given those of its entry, as arguments.

    Attributes:
      batch: how many answers `score_all` is given at a time.
      partial: whether it may leave answers `Unscored`.
      compares: whether it compares answers with right ones, `Task.references`.
      several: whether its scores have those of `members`.
    """

    batch: int = 1
    partial: bool = False
    compares: bool = False
    several: bool = False

    def check(self, task: Task) -> None:  # noqa: B027
        """Raises UserError where no answer to this task can be scored, because of what its record has. Called before anything is
        generated."""

    @abc.abstractmethod
    def score(self, answer: str, task: Task) -> Score | Unscored:
        """The score of an answer, which may be any text. Whatever a model writes is scored, and never an error, unless the settings of a
        `partial` verifier say so."""

    def score_all(self, answers: Sequence[str], tasks: Sequence[Task]) -> Sequence[Score | Unscored]:
        """The scores of answers, each to the task at its place, for verifiers that are faster with several at a time. An answer's score
        does not depend on the others."""
        return [self.score(answer, task) for answer, task in zip(answers, tasks, strict=True)]

    def notes(self) -> list[str]:
        """What people should know of it before it begins."""
        return []

    def models(self) -> dict[str, Any]:
        """The models that it asks (`ptft_jax.runs.parent.Parent`), each by the name of the verifier whose setting `run` names it; of one that
        has several, see `of_several`."""
        return {}

    def share(self, models: dict[tuple[str, str], Any]) -> None:  # noqa: B027
        """Takes what is loaded from `models`, and puts it there: verifiers that are given the same one load a model once."""

    def strictly(self) -> None:  # noqa: B027
        """From now on an answer that could not be looked at, out of time, is `Unscored` and has not the lowest score: for those that take a
        low score as a good one."""

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


def of_several(verifier: str, number: int) -> str:
    """What one of the models is known by that the setting `runs` of a verifier names."""
    return f"{verifier}{_SEVERAL}{number}"


def named(rewards: Any, key: str) -> tuple[str, str | None]:
    """The setting that names a model, and what it names it by: of `config.rewards`, or its values, by what the model is known by; None where
    fewer are named."""
    name, _, number = key.partition(_SEVERAL)
    if not number:
        return f"{name}.run", rewards[name]["run"]
    runs = rewards[name]["runs"]
    return f"{name}.runs[{number}]", runs[int(number)] if int(number) < len(runs) else None


def checked(name: str, verifier: Verifier, task: Task) -> None:
    """Raises UserError where no answer to this task can be scored by the verifier called `name`. See `Verifier.check`."""
    if verifier.compares and not task.references:
        raise UserError(
            f"{task.where}: verifier {name!r} compares with right answers, and there is none: such a record is a prompt alone, or its answer "
            "is labeled as a bad one"
        )
    verifier.check(task)


def scored(name: str, verifier: Verifier, answer: str, task: Task) -> Score:
    """The score of one answer; as `scored_all`. Raises UserError where there is none, too."""
    [found] = scored_all(name, verifier, [answer], [task])
    if isinstance(found, Unscored):
        raise UserError(f"{task.where}: verifier {name!r} gave no score: {found.reason}")
    return found


def scored_all(
    name: str,
    verifier: Verifier,
    answers: Sequence[str],
    tasks: Sequence[Task],
    check: Callable[[], None] = lambda: None,
) -> list[Score | Unscored]:
    """What the verifier called `name` gives of answers, each to the task at its place, some of them at a time.

    Args:
      check: called before each batch; may raise to end it.

    Raises:
      UserError: with the task's place, for a score that is no finite number, and for what a verifier raises: it is the verifier that is at
        fault, not the answer.
    """
    found: list[Score | Unscored] = []
    for first in range(0, len(answers), verifier.batch):
        check()
        part = slice(first, first + verifier.batch)
        try:
            given = list(verifier.score_all(answers[part], tasks[part]))
            found += [_finite(name, verifier, one, task) for one, task in zip(given, tasks[part], strict=True)]
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"{tasks[first].where}: verifier {name!r} failed: {type(e).__name__}: {e}") from e
    return found


def _finite(name: str, verifier: Verifier, found: Score | Unscored, task: Task) -> Score | Unscored:
    if isinstance(found, Unscored):
        if not verifier.partial:  # nobody would count it
            raise UserError(
                f"{task.where}: verifier {name!r} gave no score: {found.reason}; only one with partial=True may leave answers out"
            )
        return found
    value, reason, *members = found
    value = float(value)
    if not math.isfinite(value):
        raise UserError(f"{task.where}: verifier {name!r} gave {value}: a score is a finite number")
    return Score(value, reason, *members)
