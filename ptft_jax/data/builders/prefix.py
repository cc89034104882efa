"""Rows for prefix language models: what comes first is read in both directions, the rest is learned."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece, shifted


@dataclasses.dataclass(frozen=True)
class Prefix(Builder):
    """Next-token targets after a prefix (Raffel et al. 2020, section 3.2.1; Dong et al. 2019).

    The prefix is what comes before the first trained id. Where nothing does, as in plain text, the piece is split at a
    random place, every place between two ids being as likely (Raffel et al. 2020, section 3.3.1).
    """

    kinds: ClassVar[tuple[str, ...]] = ("text", "answers", "tokens")
    overlap: ClassVar[int] = 1
    random: ClassVar[bool] = True

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n) - 1

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray | None:
        return able if marked else None

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator) -> Piece:
        if trained is None:
            split = int(rng.integers(1, len(ids)))
        else:
            split = max(int(np.argmax(trained)), 1) if trained.any() else len(ids)
        return with_prefix(ids, trained, split)


def with_prefix(ids: np.ndarray, trained: np.ndarray | None, split: int) -> Piece:
    """Next-token arrays [n - 1] of ids whose first `split` are the prefix. The last of these already has a target that is
    learned; the others see theirs."""
    piece = shifted(ids, trained)
    order = np.arange(len(ids) - 1)
    piece["weights"] *= order >= split - 1
    return {**piece, "prefix": order < split}
