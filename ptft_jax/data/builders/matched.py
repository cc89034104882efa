"""Rows for vectors that are compared: a question, and the passage that belongs to it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece


@dataclasses.dataclass(frozen=True)
class Matched(Builder):
    """The ids as they are, and which of them are the question: those before the first that is learned. A row is one piece, and has no
    targets."""

    kinds: ClassVar[tuple[str, ...]] = ("answers",)
    matched: ClassVar[bool] = True

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return np.ones(len(n), np.int64)  # rows

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        assert trained is not None, "where a question ends is known"
        first = int(np.argmax(trained)) if trained.any() else len(ids)
        return {"inputs": np.asarray(ids, np.int32), "question": np.arange(len(ids)) < first}
