"""Spans of steps: whole numbers, or shares of a run's steps; and the steps that passes over the data make."""

from __future__ import annotations

import fractions
from typing import Any

from ptft_jax.errors import UserError


def steps_of(span: float, steps: int) -> int:
    """A span in a run of `steps` steps, in steps: below 1 it is a share of them, rounded, and at least one step where it is not 0."""
    return max(round(span * steps), 1) if 0 < span < 1 else int(span)


def text(value: Any) -> str:
    """A value in a message: whole numbers of steps without a fraction."""
    return str(int(value)) if type(value) is float and value.is_integer() else repr(value)


def is_step(value: Any) -> bool:
    """Whether a value names a step from 0 on: a whole number, or a share from 0 to below 1 of a run's steps."""
    return (type(value) is int and value >= 0) or (type(value) is float and 0 < value < 1)


def steps_of_epochs(epochs: float, rows: int, batch_size: int, *, limit: int | None = None) -> int:
    """The fewest steps that read `rows` rows `epochs` times, at least one. Where no more than `limit` rows may be drawn, and the last
    step would draw more, one less."""
    wanted = fractions.Fraction(repr(float(epochs))) * rows
    steps = -(-wanted // batch_size)
    if limit is not None:
        steps = min(steps, limit // batch_size)
    return max(int(steps), 1)


def check_epochs(epochs: float, steps: int | None, counted: int, max_epochs: float) -> None:
    """Raises UserError where the steps that a user gave, None = none, are not those that the epochs make, or the epochs are too many."""
    if steps is not None and steps != counted:
        raise UserError(
            f"config.training.steps = {steps} and config.training.epochs = {epochs:g}: give one of them; "
            f"{epochs:g} epochs are {counted:,} steps"
        )
    if 0 < max_epochs < epochs:
        raise UserError(f"config.training.epochs = {epochs:g}: expected at most data.max_epochs = {max_epochs:g}")
