"""Verifiers that ask others."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.rewards.base import Score, Task, Unscored, Verifier, checked, scored_all


class OfParts(Verifier):
    """One score of what several verifiers, by name, say of an answer."""

    def __init__(self, parts: Mapping[str, Verifier]):
        self._parts = parts
        self.batch = max(part.batch for part in parts.values())

    @abc.abstractmethod
    def joined(self, found: Mapping[str, Score | Unscored], task: Task) -> Score | Unscored:
        """The score of an answer of which each part says so much."""

    def check(self, task: Task) -> None:
        for name, part in self._parts.items():
            checked(name, part, task)

    def score(self, answer: str, task: Task) -> Score | Unscored:
        return self.score_all([answer], [task])[0]

    def score_all(self, answers: Sequence[str], tasks: Sequence[Task]) -> list[Score | Unscored]:
        found = {name: scored_all(name, part, answers, tasks) for name, part in self._parts.items()}
        return [self.joined(dict(zip(found, each)), task) for each, task in zip(zip(*found.values()), tasks)]

    def share(self, models: dict[tuple[str, str], Any]) -> None:
        for part in self._parts.values():
            part.share(models)

    def notes(self) -> list[str]:
        return [note for part in self._parts.values() for note in part.notes()]

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
