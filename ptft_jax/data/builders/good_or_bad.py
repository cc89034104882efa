"""Rows for texts of which each is good or bad."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.data.builders.causal import Causal


@dataclasses.dataclass(frozen=True)
class GoodOrBad(Causal):
    """As for next-token prediction, of texts and of answers after their prompts. Rows say of each target whether it is of a good one:
    `good`, bool [T]."""

    kinds: ClassVar[tuple[str, ...]] = ("rated", "rated-text")
    judged: ClassVar[bool] = True
