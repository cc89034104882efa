"""Which records repeat others: equal texts, and texts that share most of their word n-grams (Lee et al. 2022,
"Deduplicating Training Data Makes Language Models Better", section 4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ptft_jax.data.prepare.minhash import NOTHING, jaccard

_FEW = 8  # clusters that a candidate is compared with one by one


class Clusters:
    """Disjoint sets of indices (Galler and Fischer 1964), each named by its smallest."""

    def __init__(self, count: int):
        self._parent = np.arange(count)

    def find(self, i: int) -> int:
        """The smallest index in the set of i."""
        parent = self._parent
        while (up := parent[i]) != i:
            parent[i] = i = parent[up]
        return int(i)

    def join(self, i: int, j: int) -> int:
        """Makes one set of two; returns its name."""
        i, j = self.find(i), self.find(j)
        self._parent[max(i, j)] = min(i, j)
        return min(i, j)

    def names(self) -> np.ndarray:
        """int64 [count], the smallest index in each index's set."""
        parent = self._parent
        while True:
            up = parent[parent]
            if np.array_equal(up, parent):
                return parent
            self._parent = parent = up


@dataclasses.dataclass(frozen=True)
class Sketches:
    """What near-duplicates are found by. Arrays may be memory-mapped; they are read band by band and pair by pair.

    Attributes:
      bands: uint64 [records] each, the columns of `minhash.bands`.
      shingles: uint32 [shingles], the sets of n-grams, of `minhash.shingles`.
      offsets: int64 [records + 1], where each record's start.
    """

    bands: Sequence[np.ndarray]
    shingles: np.ndarray
    offsets: np.ndarray

    def similarity(self, i: int, j: int) -> float:
        """Jaccard similarity of the n-grams of two records."""
        return jaccard(self.ngrams(i), self.ngrams(j))

    def ngrams(self, i: int) -> np.ndarray:
        """uint32, sorted: the set of a record."""
        return self.shingles[self.offsets[i] : self.offsets[i + 1]]

    def similar(self, i: int, j: int, threshold: float) -> bool:
        """Whether the similarity is at least the threshold. Sets of very different sizes are not read."""
        sizes = (self.offsets[i + 1] - self.offsets[i], self.offsets[j + 1] - self.offsets[j])
        return min(sizes) >= threshold * max(sizes) and self.similarity(i, j) >= threshold


def equal(digests: np.ndarray, of: np.ndarray) -> np.ndarray:
    """int64 [records]: the first record with the same digest; a record's own index where there is none before it.

    Args:
      digests: uint64 [records, 2].
      of: int64, ascending: the records that are compared.
    """
    out = np.arange(len(digests))
    if len(of):
        _, first, inverse = np.unique(digests[of], axis=0, return_index=True, return_inverse=True)
        out[of] = of[first[inverse.reshape(-1)]]
    return out


def near(sketches: Sketches, of: np.ndarray, threshold: float, clusters: Clusters) -> int:
    """Joins records that are similar, or connected by others that are. Exactly the connected components of the graph
    whose edges are the candidate pairs with a similarity of at least the threshold.

    Args:
      of: int64, ascending: the records that are compared.

    Returns:
      How many pairs were looked at.
    """
    looked = 0
    for band in sketches.bands:
        values = np.asarray(band)[of]
        order = np.argsort(values, kind="stable")
        values = values[order]
        edges = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        sizes = np.diff(np.append(edges, len(values)))
        for start, size in zip(edges[sizes > 1], sizes[sizes > 1]):
            if values[start] != NOTHING:
                looked += _bucket(sketches, of[order[start : start + size]], threshold, clusters)
    return looked


def _bucket(sketches: Sketches, members: np.ndarray, threshold: float, clusters: Clusters) -> int:
    """Joins what is similar among candidates of each other. Two that are connected already need not be compared.

    One after the other, each is compared with the first of the clusters that grew last, as often most are alike; then,
    if some are left that it is not connected to, with all before it at once. Returns how many pairs were looked at.
    """
    looked = 0
    sets: dict[int, list[int]] = {}  # name of a cluster -> its members so far
    together: _Together | None = None
    for n, i in enumerate(map(int, members)):
        mine = clusters.find(i)
        joined = sets.pop(mine, [])
        for name in list(sets)[: -_FEW - 1 : -1]:
            looked += 1
            if sketches.similar(i, sets[name][0], threshold):
                joined += sets.pop(name)
                mine = clusters.join(i, name)
        if any(len(others) > 1 for others in sets.values()) or len(sets) > _FEW:
            together = together or _Together([sketches.ngrams(j) for j in members])
            looked += n - len(joined)
            for j in map(int, members[:n][together.similarities(n) >= threshold]):
                if (name := clusters.find(j)) != mine:
                    joined += sets.pop(name)
                    mine = clusters.join(i, j)
        sets[mine] = [*joined, i]
    return looked


class _Together:
    """Similarities of one set with many, by an inverted index of their elements."""

    def __init__(self, sets: Sequence[np.ndarray]):
        self._sizes = np.asarray([len(s) for s in sets])
        _, self._elements, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
        self._ends = np.cumsum(self._sizes)
        self._holders = np.repeat(np.arange(len(sets)), self._sizes)[np.argsort(self._elements, kind="stable")]
        self._stops = np.cumsum(counts)
        self._starts = self._stops - counts

    def similarities(self, n: int) -> np.ndarray:
        """float64 [n]: the Jaccard similarity of set n with each before it."""
        mine = self._elements[self._ends[n] - self._sizes[n] : self._ends[n]]
        holders = [self._holders[a:b] for a, b in zip(self._starts[mine].tolist(), self._stops[mine].tolist())]
        shared = np.bincount(np.concatenate(holders), minlength=n)[:n]
        return shared / (self._sizes[n] + self._sizes[:n] - shared)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What deduplication loses.

    Attributes:
      reasons: name of a reason -> int64, ascending: the records lost for it.
      like: int64 [records]: the record that one repeats, where it is lost.
      looked: pairs whose similarity was looked at.
    """

    reasons: dict[str, np.ndarray]
    like: np.ndarray
    looked: int


REASONS = ("leak", "duplicate", "near_duplicate")


def judge(digests: np.ndarray, sketches: Sketches | None, present: np.ndarray, train: int, threshold: float) -> Verdict:
    """Of records that repeat each other, the first of the train split stays; none does where a held-out record is among
    them, which stays.

    Args:
      digests: uint64 [records, 2], equal for equal texts. The records of the train split come first, in the order of
        their sources.
      sketches: for near-duplicates; None = only equal texts.
      present: bool [records]; the others are lost already, and count for nothing.
      train: records in the train split.
    """
    of = np.flatnonzero(present)
    first = equal(digests, of)
    clusters, looked = Clusters(len(digests)), 0
    for i in of[first[of] != of]:
        clusters.join(int(i), int(first[i]))
    if sketches is not None:
        looked = near(sketches, of[first[of] == of], threshold, clusters)
    names = clusters.names()
    held_out = np.full(len(digests), len(digests))
    later = of[of >= train]
    np.minimum.at(held_out, names[later], later)
    mine = of[of < train]
    leaks = held_out[names[mine]] < len(digests)
    equals = first[mine] != mine
    others = ~leaks & ~equals & (names[mine] != mine)
    like = np.arange(len(digests))
    like[mine] = np.where(leaks, held_out[names[mine]], np.where(equals, first[mine], names[mine]))
    parts: Sequence[np.ndarray] = (leaks, ~leaks & equals, others)
    return Verdict({name: mine[part] for name, part in zip(REASONS, parts)}, like, looked)
