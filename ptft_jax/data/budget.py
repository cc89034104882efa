"""What a template's work costs, so that it can be bounded (see `ptft_jax.data.sandbox`)."""

from __future__ import annotations

import re
from typing import Any

# A step costs about a microsecond, and handling a character a nanosecond or so: some seconds at most.
STEP = 20
ELEMENT = 5
BUDGET = 20_000_000
BUDGET_PER_CHARACTER = 200  # of what the template is given: long conversations are more work
LONGEST_INTEGER = 4096  # bits

_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


class TooMuch(Exception):
    """The budget is spent."""


class Budget:
    def __init__(self, units: int):
        self.left = units

    def pay(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TooMuch("it does more work than a chat template may: a loop without end?")

    def pay_for(self, *values: Any, deep: bool = True) -> None:
        """Pays for handling values: a step, and their characters and elements; `deep`, with all that is in them, as
        often as it is met."""
        self.pay(STEP)
        todo = list(values)
        while todo:
            value = todo.pop()
            if isinstance(value, str):
                self.pay(len(value))
            elif isinstance(value, (dict, list, tuple, range, *_VIEWS)):
                self.pay(ELEMENT * (len(value) + 1))
                if deep and not isinstance(value, range):
                    todo += [*value.keys(), *value.values()] if isinstance(value, dict) else value
            elif isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
                raise TooMuch("it computes with huge numbers")


# What can make much of little, and what it would come to.


def check_operation(budget: Budget, operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _check_format(left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * abs(right) > LONGEST_INTEGER:
            raise TooMuch("it computes with huge numbers")
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                _repeat(budget, many, times)


def _repeat(budget: Budget, value: Any, times: int) -> None:
    """Pays for `times` copies of a value."""
    before = budget.left
    budget.pay_for(value)
    budget.pay(max(times, 0) * (before - budget.left))


def check_method(budget: Budget, owner: Any, name: str, args: tuple) -> None:
    if not isinstance(owner, str):
        return
    if name in ("ljust", "rjust", "zfill"):
        budget.pay(max([0, *(a for a in args if isinstance(a, int))]))
    elif name == "format":
        _check_format(owner)
    elif name == "join":
        _repeat(budget, owner, _length(args[0]) if args else 0)
    elif name == "replace":
        _check_replace(budget, owner, *args)


def check_filter(budget: Budget, name: str, args: tuple, kwargs: dict) -> None:
    if name == "replace":
        text, *rest = [a for a in args if isinstance(a, str)]
        _check_replace(budget, text, *rest, *(kwargs[k] for k in ("old", "new") if k in kwargs))
    elif name == "sum":
        # args: the environment, the values, attribute, start
        if not isinstance(kwargs.get("start", args[3] if len(args) > 3 else 0), (int, float)):
            raise TooMuch("it adds up values that are not numbers")
    elif name == "join":
        separator = next((a for a in [*args[2:3], kwargs.get("d")] if isinstance(a, str)), "")
        _repeat(budget, separator, _length(args[1]))
    elif name == "round":
        if any(isinstance(a, int) and abs(a) > 100 for a in (*args[1:], *kwargs.values())):
            raise TooMuch("it computes with huge numbers")
    elif name in ("indent", "tojson"):
        # At most so much is put before each line or element, once for every list or object it is in.
        before = budget.left
        budget.pay_for(args[0])
        each = sum(_width(value) for value in (*args[1:], *kwargs.values()))
        budget.pay((before - budget.left) * each * _depth(args[0]))


def _width(value: Any) -> int:
    """What an argument can add to a line: a count of spaces, a text, or several."""
    if isinstance(value, (list, tuple)):
        return sum(map(_width, value))
    return len(value) if isinstance(value, str) else max(int(value), 0) if isinstance(value, int) else 0


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return 1 + max(map(_depth, inner), default=0)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _check_replace(budget: Budget, text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        budget.pay((text.count(old) if old else len(text) + 1) * len(new))


def _check_format(form: str) -> None:
    """Widths of formatted values must be written, and small."""
    if re.search(r"%(\([^)]*\))?[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*(\d{4}|\{)", form):
        raise TooMuch("it formats to a width that is large or not written")
