"""Rows for reward models: the two answers of a pair, each whole."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece


@dataclasses.dataclass(frozen=True)
class ScoredPairs(Builder):
    """Both answers of a pair after the prompt, the better one first: the ids as they are, with the end of the answer, at which it is
    scored. Rows have no targets; `weights` are those of pairs, float32 [P], and so are `margins`, by how much the better answer is
    ahead."""

    kinds: ClassVar[tuple[str, ...]] = ("preference",)
    paired: ClassVar[bool] = True
    scored: ClassVar[bool] = True

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return (np.arange(len(n)) % 2 == 0).astype(np.int64)  # pairs

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        return {"inputs": np.asarray(ids, np.int32)}
