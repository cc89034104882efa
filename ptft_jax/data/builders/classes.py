"""Rows for classification: a text whole, with its class."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece


@dataclasses.dataclass(frozen=True)
class Classes(Builder):
    """The ids as they are. A row is one piece; its class and weight are those of the row."""

    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    looks_ahead: ClassVar[bool] = True
    labelled: ClassVar[bool] = True

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return np.ones(len(n), np.int64)  # the class

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        return {"inputs": np.asarray(ids, np.int32)}
