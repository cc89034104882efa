"""Several arrays read as one, where they lie: what is read of them is copied, and they are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_BLOCK = 1 << 22  # numbers that are looked at at a time


class Joined:
    """Arrays of one dtype, one after the other, as one of one axis. It is indexed by a number, by numbers, or by a slice without a step, which give
    arrays; `numpy.asarray` of it copies all.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = list(parts)
        assert len({part.dtype for part in parts}) == 1, "parts of one dtype"
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        self.dtype = self._parts[0].dtype
        self.shape = (int(self._starts[-1]),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise IndexError("a slice of joined arrays has no step")
            pieces = list(self._pieces(start, stop))
            return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])
        places = np.asarray(key)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        flat = places.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"places among {len(self)} numbers: from {flat.min()} to {flat.max()}")
        among = np.searchsorted(self._starts, flat, side="right") - 1
        found = np.empty(len(flat), self.dtype)
        edges = [0, *(np.flatnonzero(np.diff(among)) + 1).tolist(), len(flat)]  # neighbors mostly lie in one part
        for begin, end in zip(edges, edges[1:] if len(flat) else []):
            number = among[begin]
            found[begin:end] = self._parts[number][flat[begin:end] - self._starts[number]]
        return found.reshape(places.shape) if places.shape else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)

    def head(self, count: int) -> Joined:
        """The first so many numbers."""
        return Joined(list(self._pieces(0, count)) or [np.empty(0, self.dtype)])

    def _pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        for begin, part in zip(self._starts[first:-1].tolist(), self._parts[first:]):
            if begin >= stop:
                return
            piece = part[max(start - begin, 0) : stop - begin]
            if len(piece):
                yield piece


def head(array: Any, count: int) -> Any:
    """The first so many numbers of an array, or of a `Joined`, which are not copied."""
    return array.head(count) if isinstance(array, Joined) else array[:count]


def blocks(array: Any) -> Iterator[np.ndarray]:
    """An array, or a `Joined`, some of it at a time."""
    for at in range(0, len(array), _BLOCK):
        yield array[at : at + _BLOCK]
