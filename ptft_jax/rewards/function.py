"""Functions of plugins as verifiers, in a process of their own: one that hangs or ends its process does not take the run with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.data.apart import Apart, Lost, Unmade, Unsent
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Function, Score, Task, Unscored, Verifier


class Outside(Verifier):
    """A function of (answer, task) to a number, or to a number and a reason, which is called in another process."""

    def __init__(self, name: str, place: Any, seconds: float, unscored: str):
        """
        Args:
          place: the function, or where it is (`ptft_jax.config.verifiers.VerifierSpec.verifier`).
          seconds, unscored: `config.rewards.function`.
        """
        self._name, self._seconds, self.partial = name, seconds, unscored == "drop"
        self._apart = Apart(_made, place)

    def score(self, answer: str, task: Task) -> Score | Unscored:
        who = f"verifier {self._name!r}"
        try:
            failed, found = self._apart.called(self._seconds, answer, task)
        except Lost as e:
            if self.partial:
                return Unscored(str(e))
            raise UserError(
                f"{task.where}: {who} gave no score: {e}: set rewards.function.seconds to more, or rewards.function.unscored='drop' to leave "
                "such answers out"
            ) from e
        except Unsent as e:
            raise UserError(
                f"{who} cannot be called in a process of its own ({e}): name it in VERIFIERS as 'package.module:name', or make it a subclass "
                "of Verifier, which the run calls itself"
            ) from e
        except Unmade as e:
            raise UserError(f"{who} cannot be made in a process of its own: {e}") from e
        if failed:
            raise UserError(f"{task.where}: {who} failed: {failed}")
        return found

    def close(self) -> None:
        self._apart.close()


def _made(place: Any) -> Callable[[str, Task], tuple[str, Score | None]]:
    """The function as its process has it: what it raised, or its score."""
    verifier = Function(located(place))

    def score(answer: str, task: Task) -> tuple[str, Score | None]:
        try:
            found = verifier.score(answer, task)
            return "", Score(float(found.value), found.reason)
        except (Exception, SystemExit) as e:
            return f"{type(e).__name__}: {e}", None

    return score
