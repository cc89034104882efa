"""Rows for regression: a text whole, with its number."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.data.builders.classes import Classes


@dataclasses.dataclass(frozen=True)
class Numbers(Classes):
    """As `Classes`, with a number in the place of the class."""

    kinds: ClassVar[tuple[str, ...]] = ("regression",)
    numeric: ClassVar[bool] = True
