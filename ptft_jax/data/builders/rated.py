"""Rows for answers of which each is good or bad: an answer, and another's to the same prompt."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.data.builders.causal import Causal


@dataclasses.dataclass(frozen=True)
class Rated(Causal):
    """An answer as for next-token prediction after its prompt, and beside it, as the other of a pair, the answer of another record after
    the same prompt (`ptft_jax.data.mismatched`). Rows say of each whether it is good: `labels`, float32 [P], 1 or -1, 0 of none."""

    kinds: ClassVar[tuple[str, ...]] = ("rated",)
    paired: ClassVar[bool] = True
    rated: ClassVar[bool] = True
