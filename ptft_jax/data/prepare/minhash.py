"""Similarity of texts by the word n-grams that they share: Broder 1997, "On the resemblance and containment of
documents"; with bands as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3."""

from __future__ import annotations

import dataclasses

import numpy as np

from ptft_jax.data.prepare.words import Words, mixed, ngrams, whole
from ptft_jax.errors import UserError

_BLOCK = 1 << 15  # shingles hashed at a time: they stay in the processor's cache
NOTHING = np.uint64(2**64 - 1)  # the bands of a text without words


@dataclasses.dataclass(frozen=True)
class Near:
    """When two texts are near-duplicates, and how pairs are found.

    Attributes:
      threshold: Jaccard similarity of their sets of n-grams from which on they are.
      words: n. A text with fewer words has one n-gram, all of it.
      bands: a pair is a candidate, whose similarity is then computed exactly, if one of so many bands is equal.
      rows: hash functions a band.
      seed: of the hash functions.
    """

    threshold: float = 0.8
    words: int = 5
    bands: int = 20
    rows: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"--near_threshold={self.threshold}: expected a similarity above 0, at most 1")
        for name in ("words", "bands", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"--near_{name}={getattr(self, name)}: expected at least 1")

    def found(self, similarity: float) -> float:
        """The probability that a pair of this similarity is a candidate."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def shingles(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The set of n-grams of each text.

    Returns:
      uint32 [shingles], each text's sorted and without repeats; int64 [texts + 1], where each text's start.
    """
    texts = len(words.counts)
    hashes, first = ngrams(words, n)
    short = np.flatnonzero((words.counts > 0) & (words.counts < n))
    values = np.concatenate([hashes, whole(words)[short]]) >> np.uint64(32)
    text = np.concatenate([words.text_of[first], short]).astype(np.uint64)
    keys = np.sort(values | (text << np.uint64(32)))
    keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    offsets = np.searchsorted(keys, np.arange(texts + 1, dtype=np.uint64) << np.uint64(32))
    return keys.astype(np.uint32), offsets.astype(np.int64)


def signatures(values: np.ndarray, offsets: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """MinHash: the share of equal entries of two signatures estimates the Jaccard similarity of the sets, without bias
    and with variance J (1 - J) / permutations.

    Hash functions are multiply-shift, (a x + b mod 2**64) >> 32, which is strongly universal for 32-bit x (Dietzfelbinger
    1996; Thorup 2015, "High speed hashing for integers and strings", section 3.3).

    Args:
      values: uint32 [shingles].
      offsets: int64 [texts + 1].

    Returns:
      uint32 [texts, permutations]; the largest value throughout for an empty set.
    """
    texts = len(offsets) - 1
    draws = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**64, (2, permutations), np.uint64)
    out = np.full((permutations, texts), 2**32 - 1, np.uint32)
    filled = np.flatnonzero(np.diff(offsets))
    at = 0
    while at < len(filled):
        start = offsets[filled[at]]
        stop = max(int(np.searchsorted(offsets[filled + 1], start + _BLOCK, "right")), at + 1)
        block = filled[at:stop]
        x = values[start : offsets[block[-1] + 1]].astype(np.uint64)
        starts = offsets[block] - start
        hashed = np.empty_like(x)
        for p in range(permutations):
            np.multiply(x, draws[0, p], out=hashed)
            np.add(hashed, draws[1, p], out=hashed)
            out[p, block] = np.minimum.reduceat(hashed, starts) >> np.uint64(32)  # the shift keeps the order
        at = stop
    return np.ascontiguousarray(out.T)


def bands(signatures: np.ndarray, empty: np.ndarray, near: Near) -> np.ndarray:
    """uint64 [texts, bands], hashes of the rows of each band; NOTHING where `empty` (bool [texts])."""
    rows = signatures.reshape(len(signatures), near.bands, near.rows).astype(np.uint64)
    out = np.zeros(rows.shape[:2], np.uint64)
    for row in range(near.rows):
        out = mixed(out + rows[:, :, row] + np.uint64(1))
    out[empty] = NOTHING
    return out


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The similarity of two sets, each sorted and without repeats: what both have, as a share of what either has."""
    both = np.sort(np.concatenate([a, b]), kind="stable")
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(len(both) - shared, 1)
