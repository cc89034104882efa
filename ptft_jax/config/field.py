"""What a setting of the config tree is: default, meaning, what is valid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.config import seeds, spans
from ptft_jax.errors import UserError, nearest

# Numbers that float32 can compute with: what lies beyond is an infinity there, what lies below is 0.
LEAST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
MOST = 2**31 - 1  # of sizes and counts: JAX' whole numbers
MANY = 2**63 - 1  # of tokens
TEMPERATURES = 1e-6, 1e6  # logits divided by less, or multiplied by more, leave float32
_DEEP = 16  # levels of tuples in tuples

# What is wrong with a value, "" where nothing is.
Rule = Callable[[Any], str]


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting: its default (which fixes its type), its meaning, and what else is valid.

    Attributes:
      valid, expected: a test of values, and what it asks for in words.
      most: the largest whole number.
      form: of tuples, what is wrong with their entries.
      raw: texts may hold NUL characters; others name files and such.
      steps: a number is one of steps, or a share of them (`span`), and shown without a fraction where it has none.
      small: numbers may be so small that float32 has 0 for them, where that is what 0 means, too.
    """

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    valid: Callable[[Any], bool] | None = None
    expected: str = ""
    most: int = MOST
    form: Rule | None = None
    raw: bool = False
    small: bool = False
    steps: bool = False

    def text(self, value: Any) -> str:
        """A value of it in a message."""
        return spans.text(value) if self.steps else repr(value)

    def check(self, path: str, value: Any) -> Any:
        """The value in the declared type. Raises UserError that names `path`."""
        value, wrong = self.read(value)
        if wrong:
            raise UserError(f"config.{path}{wrong}")
        return value

    def read(self, value: Any) -> tuple[Any, str]:
        """The value in the declared type, and what is wrong with it, to be read after the setting's name; "" = nothing is."""
        kind = type(self.default)
        if kind is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            if wrong := _impure(value, self.raw):
                return value, wrong
            value = hashable(value)  # JSON has lists
        if type(value) is not kind:
            return value, f" = {shown(value)}: expected {kind.__name__}, got {_kind(value)}"
        if self.small and kind is float and abs(value) < LEAST:
            value = 0.0
        if wrong := _impure(value, self.raw):
            return value, wrong
        if kind is tuple and self.form and (wrong := self.form(value)):
            return value, f": {wrong}"
        if wrong := self._refused(value):
            return value, f" = {shown(value)}: {wrong}"
        return value + 0.0 if kind is float else value, ""  # -0.0 is 0.0

    def _refused(self, value: Any) -> str:
        if self.choices and value not in self.choices:
            return f"expected one of {', '.join(self.choices)}{nearest(value, self.choices)}"
        meaning = f" ({self.meaning})" if self.meaning else ""
        if self.valid and not self.valid(value):
            return f"expected {self.expected}{meaning}"
        return f"expected at most {self.most}{meaning}" if type(value) is int and value > self.most else ""


def hashable(value: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(map(hashable, value)) if isinstance(value, (list, tuple)) else value


def shown(value: Any) -> str:
    """A value in a message: on one line, and short."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of thousands of digits, an object of someone else's
        text = f"a {_kind(value)}"
    return text if len(text) <= 200 else f"{text[:160]} ... ({len(text):,} characters)"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"


def _impure(value: Any, raw: bool, place: str = "") -> str:
    """Where a value, or what a tuple holds at whatever depth, is no text, number, True, False or None of Python's that can be
    computed with and written down, and why; "" where all of it is."""
    if isinstance(value, (list, tuple)):
        if place.count("[") > _DEEP:
            return f": tuples in tuples, more than {_DEEP} deep"
        return next(filter(None, (_impure(entry, raw, f"{place}[{n}]") for n, entry in enumerate(value))), "")
    wrong = ""
    if type(value) is int and abs(value) > MANY:
        wrong = "expected a number of at most 63 bits"
    elif type(value) is float and not math.isfinite(value):
        wrong = "expected a finite number"
    elif type(value) is float and value and not LEAST <= abs(value) <= LARGEST:
        wrong = f"expected 0, or a number that float32 can hold, {LEAST:.3g} to {LARGEST:.3g}"
    elif type(value) is str and any("\ud800" <= letter <= "\udfff" for letter in value):
        wrong = "expected a text of Unicode, this has lone surrogates"
    elif type(value) is str and "\0" in value and not raw:
        wrong = "expected a text without NUL characters"
    elif value is not None and type(value) not in (bool, int, float, str):
        wrong = f"expected a text, number, True, False or None of Python's own, got {_kind(value)}"
    return f"{place} = {shown(value)}: {wrong}" if wrong else ""


def positive(default: Any, meaning: str, **more: Any) -> Field:
    """A number above 0."""
    return Field(default, meaning, valid=lambda v: v > 0, expected="a value above 0", **more)


def natural(default: Any, meaning: str, **more: Any) -> Field:
    """A number of 0 or more."""
    return Field(default, meaning, valid=lambda v: v >= 0, expected="a value of 0 or more", **more)


def span(default: float, meaning: str, *, least: int = 0) -> Field:
    """A number of steps, or a share of a run's (`ptft_jax.config.spans`)."""
    return Field(
        float(default),
        f"{meaning}; below 1: a share of training.steps",
        valid=lambda v: 0 < v < 1 or (v >= least and float(v).is_integer()),
        expected=f"a whole number of steps from {least} on, or a share above 0 and below 1",
        steps=True,
    )


def seed(default: Any, meaning: str) -> Field:
    """A seed of random numbers."""
    return natural(default, meaning, most=seeds.MOST)


def temperature(default: Any, meaning: str, *, zero: bool = True) -> Field:
    """What logits are divided by; 0 where that has a meaning of its own."""
    least, most = TEMPERATURES
    expected = f"{'0, or ' if zero else ''}a value from {least:g} to {most:g}"
    return Field(default, meaning, valid=lambda v: (zero and v == 0) or least <= v <= most, expected=expected)


def share(default: Any, meaning: str, **more: Any) -> Field:
    """A number from 0 to below 1."""
    return Field(default, meaning, valid=lambda v: 0 <= v < 1, expected="a value from 0 to below 1", **more)


def part(default: Any, meaning: str) -> Field:
    """A number between 0 and 1."""
    return Field(default, meaning, valid=lambda v: 0 < v < 1, expected="a value between 0 and 1")


def mass(default: Any, meaning: str) -> Field:
    """A number above 0, at most 1."""
    return Field(default, meaning, valid=lambda v: 0 < v <= 1, expected="above 0, at most 1")


def whole_share(default: Any, meaning: str) -> Field:
    """A number from 0 to 1."""
    return Field(default, meaning, valid=lambda v: 0 <= v <= 1, expected="a value from 0 to 1")


def one_of(default: Any, meaning: str, *choices: Any) -> Field:
    """One of the texts `choices`."""
    return Field(default, meaning, choices=choices)


def texts(default: Any, meaning: str, *, of: Sequence[str] = (), **more: Any) -> Field:
    """Texts that are not empty; `of` these, where any are named."""

    def wrong(entries: tuple) -> str:
        for entry in entries:
            if not isinstance(entry, str):
                return f"{shown(entry)} is not a text"
            if not entry and not more.get("raw"):
                return "'' is an empty text"
            if of and entry not in of:
                return f"expected of {', '.join(of)}{nearest(entry, of)}"
        return ""

    return Field(default, meaning, form=wrong, **more)


def patterns(default: Any, meaning: str) -> Field:
    """Regular expressions on paths."""
    from ptft_jax.params.rules import regex

    plain = texts(default, meaning).form

    def wrong(entries: tuple) -> str:
        return plain(entries) or next(filter(None, map(_tried(lambda entry: regex(entry, "")), entries)), "")

    return Field(default, meaning, form=wrong)


def pairs(default: Any, meaning: str) -> Field:
    """Pairs of a text and something."""

    def wrong(entries: tuple) -> str:
        bad = [entry for entry in entries if not _is_pair(entry)]
        return f"{shown(bad[0])} is not a pair ({meaning.split(')')[0].lstrip('(')})" if bad else ""

    return Field(default, meaning, form=wrong)


def rules(default: Any, meaning: str, value: Rule) -> Field:
    """Pairs of a path rule's pattern (`ptft_jax.params.rules`) and a value that `value` finds nothing wrong with."""
    from ptft_jax.params.rules import compiled

    def wrong(entries: tuple) -> str:
        for rule in entries:
            if not _is_pair(rule):
                return f"{shown(rule)} is not a pair (pattern, value)"
            if found := _tried(lambda pattern: compiled(pattern, ""))(rule[0]) or value(rule[1]):
                return f"{shown(rule)}: {found}"
        return ""

    return Field(default, meaning, form=wrong)


def number(value: Any) -> str:
    """Rule of a number."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "" if good else f"{shown(value)} is not a number"


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)


def _tried(function: Callable[[Any], Any]) -> Rule:
    """The message of the UserError that a function raises."""

    def wrong(value: Any) -> str:
        try:
            function(value)
        except UserError as e:
            return str(e).removeprefix(": ")
        return ""

    return wrong
