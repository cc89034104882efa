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

    A causal model reads the last of them. For it a text ends as the tokenizer itself ends one, most often with its last word:
    so do the texts that other programs give such a model, and a token to pad with that is also the end token is no part of them.

    Attributes:
      between: ids that stand between the two texts of a pair.
      second: the type of the tokens after them; those of all others is 0.
      ended: whether the tokenizer itself puts something after a text.
      last: whether the class is read off the last position, and not the first.
    """

    between: tuple[int, ...] = ()
    second: int = 0
    ended: bool = True
    last: bool = False

    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    looks_ahead: ClassVar[bool] = True
    labelled: ClassVar[bool] = True

    @classmethod
    def of(cls, objective: Any, tokenizer: Tokenizer) -> Classes:
        """The builder of `config.objective`."""
        return cls(*tokenizer.between, ended=bool(tokenizer.suffix_ids))

    @classmethod
    def last_tokens(cls, tokenizer: Tokenizer) -> tuple[int, ...]:
        return tokenizer.suffix_ids  # to a causal model, see above

    def read_by(self, causal: bool) -> Classes:
        return dataclasses.replace(self, last=causal)

    @property
    def _cut(self) -> int:
        """How many ids at the end of a text, of those that a store has, are no part of a row."""
        return int(self.last and not self.ended)

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n) - self._cut

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return np.ones(len(n), np.int64)  # the class

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        ids = np.asarray(ids, np.int32)[: len(ids) - self._cut]
        types = np.zeros(len(ids), np.int32)
        if self.second:  # what is between are control tokens, which no text becomes; a single text may end with them
            size = len(self.between)
            starts = np.flatnonzero(ids[: len(ids) - size] == self.between[0]).tolist()
            found = (n + size for n in starts if tuple(ids[n : n + size].tolist()) == self.between)
            types[next(found, len(ids)) :] = self.second
        return {"inputs": ids, "types": types}
