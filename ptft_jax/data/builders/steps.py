"""Rows for answers of which each step is right or wrong."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece


@dataclasses.dataclass(frozen=True)
class Steps(Builder):
    """The ids as they are. The token that ends a step weighs 1, and is where the step is scored; rows say of each position whether it ends a
    step that is right: `right`, bool [T]. Positions have no targets."""

    kinds: ClassVar[tuple[str, ...]] = ("steps",)
    stepped: ClassVar[bool] = True

    @classmethod
    def last_tokens(cls, tokenizer: object) -> tuple[int, ...]:
        return ()  # a step ends as a line does, with no control token

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return able

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None = None) -> Piece:
        assert trained is not None, "steps come with their ends"
        return {"inputs": np.asarray(ids, np.int32), "weights": trained.astype(np.float32)}
