"""Rows of prompts with their right answers: what is measured of an objective that learns from what the model itself writes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.data.builders.causal import Causal


@dataclasses.dataclass(frozen=True)
class Prompts(Causal):
    """A prompt and its right answer per row, as for next-token prediction. Training reads which record a row is of, and no more."""

    kinds: ClassVar[tuple[str, ...]] = ("answers",)
    sampled: ClassVar[bool] = True
