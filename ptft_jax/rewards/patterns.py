"""A regular expression on answers, with a time bound."""

from __future__ import annotations

import re

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Verifier
from ptft_jax.rewards.bounded import Bounded, TooLong
from ptft_jax.rewards.texts import shown, spaces

GROUP = "answer"


class Regex(Verifier):
    """1 where the pattern is found in the answer; with a group, where what that finds is a reference, white space aside."""

    def __init__(self, pattern: str, which: str = "first", seconds: float = 1.0):
        if not pattern:
            raise UserError("config.rewards.regex.pattern is '': the verifier 'regex' looks for it")
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as e:
            raise UserError(f"config.rewards.regex.pattern = {pattern!r}: {e}") from e
        if compiled.groups > 1 and GROUP not in compiled.groupindex:
            raise UserError(
                f"config.rewards.regex.pattern = {pattern!r} has {compiled.groups} groups: name the one whose text is the answer, "
                f"(?P<{GROUP}>...), or make others (?:...)"
            )
        self._group = GROUP if GROUP in compiled.groupindex else compiled.groups
        self._job = {"job": "search", "pattern": pattern, "last": which == "last", "group": self._group}
        self._seconds, self._process = seconds, Bounded()

    def score(self, answer: str, task: Task) -> Score:
        try:
            found = self._process.run({**self._job, "text": answer}, self._seconds)
        except TooLong:
            return Score(0.0, f"the search took more than {self._seconds:g} seconds")
        if not found["found"]:
            return Score(0.0, "the pattern is not in the answer")
        if not self._group:
            return Score(1.0, "found")
        text = spaces(found["text"] or "")
        right = any(text == spaces(reference) for reference in task.references)
        return Score(float(right), f"found {shown(text)}" + ("" if right else f", not {shown(task.references[0])}"))

    def close(self) -> None:
        self._process.close()
