"""What a setting of the config tree is: default, meaning, what is valid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.model.spec import hashable


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting: its default (which fixes its type), its meaning, and what else is valid."""

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    valid: Callable[[Any], bool] | None = None
    expected: str = ""

    def check(self, path: str, value: Any) -> Any:
        """The value in the declared type. Raises UserError that names `path`."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            value = hashable(value)  # JSON has lists
        if type(value) is not kind:
            raise UserError(f"config.{path} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")
        if self.choices and value not in self.choices:
            raise UserError(
                f"config.{path} = {value!r}: expected one of {', '.join(self.choices)}{nearest(value, self.choices)}"
            )
        if (kind is float and math.isnan(value)) or (self.valid and not self.valid(value)):
            raise UserError(f"config.{path} = {value!r}: expected {self.expected or 'a number'} ({self.meaning})")
        return value


def positive(default, meaning):
    """A number above 0."""
    return Field(default, meaning, valid=lambda v: v > 0, expected="a value above 0")


def natural(default, meaning):
    """A number of 0 or more."""
    return Field(default, meaning, valid=lambda v: v >= 0, expected="a value of 0 or more")


def share(default, meaning):
    """A number from 0 to below 1."""
    return Field(default, meaning, valid=lambda v: 0 <= v < 1, expected="a value from 0 to below 1")


def part(default, meaning):
    """A number between 0 and 1."""
    return Field(default, meaning, valid=lambda v: 0 < v < 1, expected="a value between 0 and 1")


def whole_share(default, meaning):
    """A number from 0 to 1."""
    return Field(default, meaning, valid=lambda v: 0 <= v <= 1, expected="a value from 0 to 1")


def one_of(default, meaning, *choices):
    """One of the texts `choices`."""
    return Field(default, meaning, choices=choices)
