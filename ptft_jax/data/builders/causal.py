"""Rows for next-token prediction."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece, shifted


@dataclasses.dataclass(frozen=True)
class Causal(Builder):
    """Every id but the first is the target of the one before it."""

    kinds: ClassVar[tuple[str, ...]] = ("text", "answers", "tokens")
    overlap: ClassVar[int] = 1
    neighbors: Any = None

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n) - 1

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return able

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        return shifted(ids, trained)
