"""Rows for classification: a text whole, with its class."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Classes(Builder):
    """The ids as they are, and their types. A row is one piece; its class and weight are those of the row.

    Attributes:
      between: ids that stand between the two texts of a pair.
      second: the type of the tokens after them; those of all others is 0.
    """

    between: tuple[int, ...] = ()
    second: int = 0

    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    looks_ahead: ClassVar[bool] = True
    labelled: ClassVar[bool] = True

    @classmethod
    def of(cls, objective: Any, tokenizer: Tokenizer) -> Classes:
        """The builder of `config.objective`."""
        return cls(*tokenizer.between)

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return np.ones(len(n), np.int64)  # the class

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        ids = np.asarray(ids, np.int32)
        types = np.zeros(len(ids), np.int32)
        if self.second:  # what is between are control tokens, which no text becomes; a single text may end with them
            size = len(self.between)
            starts = np.flatnonzero(ids[: len(ids) - size] == self.between[0]).tolist()
            found = (n + size for n in starts if tuple(ids[n : n + size].tolist()) == self.between)
            types[next(found, len(ids)) :] = self.second
        return {"inputs": ids, "types": types}
