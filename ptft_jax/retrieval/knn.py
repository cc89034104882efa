"""Nearest neighbors of states (Khandelwal et al. 2020, "Generalization through memorization: nearest neighbor language models").

A datastore has, for each token that a run has read, its last hidden state (what the head reads) and the token that came next. Of a new state the
nearest of these say which tokens may come next, p(y) proportional to the sum over the neighbors with target y of exp(-d / temperature), with d
the squared distance (equation 2); and that is mixed with what the model itself says (equation 3). Search is exact.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.retrieval import index
from ptft_jax.retrieval.dense import nearest

KEYS, TARGETS = "keys.npy", "targets.npy"
_ROWS = 256  # states that are looked up at a time
_MARGIN = 16  # entries beyond those that are asked for, which rounding in the search may have put too far
_ROUNDS = 200  # of EM, at most


def build(
    folder: pathlib.Path,
    counts: np.ndarray,
    width: int,
    part: Callable[[int], tuple[np.ndarray, np.ndarray]],
    done: int,
    at: Callable[[int], None],
    every: int = 64,
) -> None:
    """Writes a datastore part by part; those before `done` are there already.

    Args:
      counts: int64 [parts], entries of each.
      width: of states.
      part: gives the states float32 [entries, width] of a part, and what came next int32 [entries].
      at: told how many parts are on the disk, once in `every`.
    """
    ends, mode = np.concatenate([[0], np.cumsum(counts)]), "r+" if done else "w+"
    total = int(ends[-1])
    shapes = {} if done else {"shape": (total, width), "dtype": np.float32}
    keys = np.lib.format.open_memmap(folder / KEYS, mode=mode, **shapes)
    targets = np.lib.format.open_memmap(
        folder / TARGETS, mode=mode, **({} if done else {"shape": (total,), "dtype": np.int32})
    )
    for n in range(done, len(counts)):
        keys[ends[n] : ends[n + 1]], targets[ends[n] : ends[n + 1]] = part(n)
        if (n + 1) % every == 0 or n + 1 == len(counts):
            keys.flush()
            targets.flush()
            at(n + 1)


class Neighbors(NamedTuple):
    """The nearest entries of a datastore, the nearest first.

    Attributes:
      distances: float32 [states, k], squared.
      targets: int32 [states, k], what came next there.
    """

    distances: np.ndarray
    targets: np.ndarray

    def probability(self, tokens: np.ndarray, temperature: float) -> np.ndarray:
        """float64 [states]: of a token each, int [states], by the neighbors alone."""
        far = -self.distances.astype(np.float64) / temperature
        weights = np.exp(far - far.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.where(self.targets == tokens[:, None], weights, 0).sum(axis=1)


class Datastore:
    """A datastore in a folder, memory-mapped.

    Attributes:
      facts: its manifest.
    """

    def __init__(self, folder: str, field: str):
        """Raises UserError: none there, an index of passages, a damaged one; a corpus that is there and has changed since."""
        path = pathlib.Path(folder).expanduser()
        self.facts = index.manifest(path, field)
        if self.facts["kind"] != "knn":
            raise UserError(
                f"{field}={folder}: an index of passages ({self.facts['kind']}): expected one of --kind=knn"
            )
        index.check_files(path, self.facts)
        index.check_corpus(path, self.facts, field)
        self.keys = np.load(path / KEYS, mmap_mode="r")
        self.targets = np.load(path / TARGETS, mmap_mode="r")

    def check(self, settings: Mapping[str, Any], name: str, field: str) -> None:
        """Raises UserError where the states are those of another run, or were made otherwise. `settings`: of the run `name`."""
        for what, value in settings.items():
            if self.facts["settings"][what] != value:
                raise UserError(
                    f"{field}: its states are of other {what} than {name} has, {self.facts['settings'][what]} and not {value}: make the index "
                    f"with this run (it was made with {self.facts['run']})"
                )

    def search(self, states: np.ndarray, k: int) -> Neighbors:
        """The k nearest of each state, float32 [states, width]."""
        distances = np.zeros((len(states), k), np.float32)
        targets = np.zeros((len(states), k), np.int32)
        for first in range(0, len(states), _ROWS):
            some = states[first : first + _ROWS]
            wide = min(k + _MARGIN, len(self.keys))
            for n, (which, _) in enumerate(nearest(some, self.keys, wide, squared=True)):
                order = np.sort(which)  # a file is read forward
                apart = np.square(self.keys[order] - some[n]).sum(axis=1)  # without what cancels in the search
                again = np.argsort(apart, kind="stable")[:k]
                distances[first + n], targets[first + n] = apart[again], self.targets[order[again]]
        return Neighbors(distances, targets)


def mixed(model: np.ndarray, neighbors: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """float64 [n]: log(weight * p of neighbors + (1 - weight) * p of the model), of log-probabilities of the model and probabilities of the
    neighbors."""
    with np.errstate(divide="ignore"):  # of no neighbor, or a weight of 0 or 1
        return np.logaddexp(np.log1p(-np.asarray(weight)) + model, np.log(weight) + np.log(neighbors))


class Weights(NamedTuple):
    """Weights of the neighbors by how near the nearest is (Drozdov et al. 2022, "You can't pick your neighbors, or can you?").

    Attributes:
      borders: float64 [buckets - 1], squared distances.
      weights: float64 [buckets].
    """

    borders: np.ndarray
    weights: np.ndarray

    def of(self, distances: np.ndarray) -> np.ndarray:
        """float64 [n], by the distance of the nearest."""
        return self.weights[np.searchsorted(self.borders, distances, side="right")]


def fitted(model: np.ndarray, neighbors: np.ndarray, distances: np.ndarray, buckets: int) -> Weights:
    """The weights under which what came next is likeliest: in each of some buckets of equally many states, by the distance of the nearest, that
    of a mixture of two by expectation maximization, which has one maximum.

    Args:
      model: log-probabilities of what came next, by the model; `neighbors`: probabilities, by the neighbors, float64 [n] both.
      distances: of the nearest, float [n].
    """
    borders = np.quantile(distances, np.arange(1, buckets) / buckets).astype(np.float64)
    where, found = np.searchsorted(borders, distances, side="right"), np.zeros(buckets)
    for n in range(buckets):
        own, theirs, weight = np.exp(model[where == n]), neighbors[where == n], 0.5
        for _ in range(_ROUNDS if len(own) else 0):
            share = weight * theirs / np.maximum(weight * theirs + (1 - weight) * own, 1e-300)
            weight, before = float(share.mean()), weight
            if abs(weight - before) < 1e-9:
                break
        found[n] = weight if len(own) else 0.0
    return Weights(borders, found)
