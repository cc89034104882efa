"""Answers that are Python programs, run against the tests of their record."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards import lockdown
from ptft_jax.rewards.base import Score, Task, Verifier
from ptft_jax.rewards.texts import shown, spaces

_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE | re.IGNORECASE
)


_TRIED = 20  # records whose tests are run without a program, to see that they check something: each takes a process


class Program(Verifier):
    """1 where the program passes all tests of its record, else 0. The program is the last block of Python code of the answer, or all of
    it where it has none. It runs as `ptft_jax.rewards.lockdown` says, with the standard library alone."""

    def __init__(
        self,
        tests: str = "",
        with_prompt: bool = False,
        seconds: float = 10.0,
        cpu_seconds: int = 10,
        memory: int = 512,
        output: int = 65536,
    ):
        self._column, self._with_prompt = tests, with_prompt
        self._checked = 0
        self._limits = lockdown.Limits(seconds, cpu_seconds, memory << 20, output)

    def check(self, task: Task) -> None:
        tests = self._tests(task)
        self._checked += 1
        if self._checked > _TRIED:
            return
        if isinstance(tests, str) and lockdown.run("", self._limits, tests=tests).passed:
            raise UserError(
                f"{task.where}: the tests of a program pass without any program: they check nothing (a definition that nobody calls, a list "
                "in a text, or a solution in the place of tests)"
            )

    def notes(self) -> list[str]:
        if not (open_ := lockdown.open_ways(self._limits)):
            return []
        return [
            f"programs that answers are run here with limits of time and memory, but not shut off from {' and '.join(open_)}"
        ]

    def score(self, answer: str, task: Task) -> Score:
        code = program(answer)
        if self._with_prompt:
            code = task.prompt + code
        tests = self._tests(task)
        if isinstance(tests, str):
            outcome = lockdown.run(code, self._limits, tests=tests)
            return Score(float(outcome.passed), outcome.reason)
        for number, (given, wanted) in enumerate(tests):
            outcome = lockdown.run(code, self._limits, given=given)
            if not outcome.passed:
                return Score(0.0, f"test {number}: {outcome.reason}")
            if _lines(outcome.output) != _lines(wanted):
                return Score(0.0, f"test {number}: it wrote {shown(outcome.output)}, not {shown(wanted)}")
        return Score(1.0, "passed")

    def _tests(self, task: Task) -> str | list[tuple[str, str]]:
        """Code, or pairs of what a program is given and what it has to write."""
        if not self._column:
            return _code(list(task.references), f"{task.where}: the reference")
        where = f"{task.where}: column {self._column!r}"
        value = task.record.get(self._column)
        if not value:
            near = "" if self._column in task.record else nearest(self._column, task.record)
            raise UserError(f"{where}: no tests for a program{near}")
        if isinstance(value, str) and value.lstrip().startswith("["):  # as tables have lists
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, str):
            return _code([value], where)
        if isinstance(value, list) and all(isinstance(test, str) for test in value):
            return _code(value, where)
        if isinstance(value, list) and all(map(_is_pair, value)):
            return [(test["input"], test["output"]) for test in value]
        raise UserError(
            f"{where}: expected Python code, a list of such, or a list of {{'input': text, 'output': text}}, got {shown(repr(value))}"
        )


def program(answer: str) -> str:
    """The last block of Python code of an answer, all of it where it has none."""
    blocks = _BLOCK.findall(answer)
    return blocks[-1] if blocks else answer


def _is_pair(test: Any) -> bool:
    return isinstance(test, dict) and all(isinstance(test.get(name), str) for name in ("input", "output"))


def _lines(text: str) -> list[str]:
    """What a program wrote, white space of each line as one space, without empty lines at the end."""
    return [spaces(line) for line in text.rstrip().splitlines()]


def _code(parts: list[str], where: str) -> str:
    """Tests that can be compiled. Raises UserError."""
    code = "\n".join(parts)
    if not code.strip():
        raise UserError(f"{where}: no tests for a program")
    try:
        compile(code, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as e:
        raise UserError(f"{where}: no Python code: {e}") from e
    return code
