"""A regular expression on answers, with a time bound."""

from __future__ import annotations

import re
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Verifier
from ptft_jax.rewards.bounded import Bounded, TooLong
from ptft_jax.rewards.texts import shown, spaces

GROUP = "answer"


def search(pattern: str, which: str, field: str) -> dict[str, Any]:
    """The job, but for its text, that looks for a pattern (`ptft_jax.rewards.worker.search`): for what its group finds, where it has one.
    Raises UserError that names `field`."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as e:
        raise UserError(f"{field} = {pattern!r}: {e}") from e
    if compiled.groups > 1 and GROUP not in compiled.groupindex:
        raise UserError(
            f"{field} = {pattern!r} has {compiled.groups} groups: name the one whose text is the answer, (?P<{GROUP}>...), or make others "
            "(?:...)"
        )
    group = GROUP if GROUP in compiled.groupindex else compiled.groups
    return {"job": "search", "pattern": pattern, "last": which == "last", "group": group}


class Regex(Verifier):
    """1 where the pattern is found in the answer; with a group, where what that finds is a reference, white space aside.

    Attributes:
      group: its number or name; 0 = there is none.
    """

    def __init__(self, pattern: str, which: str = "first", seconds: float = 1.0):
        if not pattern:
            raise UserError("config.rewards.regex.pattern is '': the verifier 'regex' looks for it")
        self._job = search(pattern, which, "config.rewards.regex.pattern")
        self.group = self._job["group"]
        self._seconds, self._process = seconds, Bounded()

    def score(self, answer: str, task: Task) -> Score:
        try:
            found = self._process.run({**self._job, "text": answer}, self._seconds)
        except TooLong:
            return Score(0.0, f"the search took more than {self._seconds:g} seconds")
        if not found["found"]:
            return Score(0.0, "the pattern is not in the answer")
        if not self.group:
            return Score(1.0, "found")
        text = spaces(found["text"] or "")
        right = any(text == spaces(reference) for reference in task.references)
        return Score(float(right), f"found {shown(text)}" + ("" if right else f", not {shown(task.references[0])}"))

    def close(self) -> None:
        self._process.close()
