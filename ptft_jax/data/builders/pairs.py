"""Rows for preferences: the two answers of a pair, side by side."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.data.builders.causal import Causal


@dataclasses.dataclass(frozen=True)
class Pairs(Causal):
    """Both answers of a pair as for next-token prediction, each after the prompt, the better one first."""

    kinds: ClassVar[tuple[str, ...]] = ("preference",)
    paired: ClassVar[bool] = True
