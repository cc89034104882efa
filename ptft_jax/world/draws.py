"""Random numbers by counter: the numbers of a document follow from its key and its index, and from no document
before it.

SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 15), whose state is a
counter.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key(*parts: str | int) -> int:
    """64 bits that other parts do not share."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = str(part).encode()
        hashed.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hashed.digest(), "little")


def mix(x: int) -> int:
    """A bijection of the numbers below 2 ** 64, after which near ones are far apart."""
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


class Draws:
    """The random numbers of one document, in order."""

    __slots__ = ("_state",)

    def __init__(self, key: int, index: int):
        self._state = mix(key ^ mix((index + 1) * _GAMMA & _MASK))

    def number(self) -> int:
        """Of 64 bits."""
        self._state = (self._state + _GAMMA) & _MASK
        return mix(self._state)

    def below(self, count: int) -> int:
        """From 0 to below `count`, which is far below 2 ** 64: no number is likelier than others by more than count
        / 2 ** 64."""
        return (self.number() * count) >> 64

    def share(self) -> float:
        """From 0 to below 1."""
        return (self.number() >> 11) * 2.0**-53

    def order(self, count: int) -> list[int]:
        """The numbers below `count`, at most 20, in any order (Fisher and Yates)."""
        found, number = list(range(count)), self.number()
        for n in range(count - 1, 0, -1):
            number, other = divmod(number, n + 1)
            found[n], found[other] = found[other], found[n]
        return found

    def sample(self, count: int, of: int) -> list[int]:
        """`count` different numbers below `of` (Floyd)."""
        found: list[int] = []
        for n in range(of - count, of):
            other = self.below(n + 1)
            found.append(n if other in found else other)
        return found


def numbers(key: int, count: int) -> np.ndarray:
    """uint64 [count]: a number for each index, the first of `Draws(key, index)`."""
    with np.errstate(over="ignore"):
        first = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(_GAMMA)
        return _mixed(_mixed(np.uint64(key) ^ _mixed(first)) + np.uint64(_GAMMA))


def below(key: int, count: int, most: int) -> np.ndarray:
    """int64 [count], each from 0 to below `most`."""
    high = numbers(key, count) >> np.uint64(32)
    return ((high * np.uint64(most)) >> np.uint64(32)).astype(np.int64)


def shares(key: int, count: int) -> np.ndarray:
    """float64 [count], each from 0 to below 1."""
    return (numbers(key, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(key: int, count: int) -> np.ndarray:
    """int64 [count]: the numbers below `count` in any order."""
    return np.argsort(numbers(key, count), kind="stable")


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


class Shuffle:
    """The numbers below `count` in another order, each found by itself: slot -> (a slot + b) mod count, a prime to
    count."""

    __slots__ = ("_count", "_factor", "_shift")

    def __init__(self, key: int, count: int):
        draws = Draws(key, count)
        self._count, self._shift = count, draws.below(count) if count else 0
        self._factor = 1
        while count > 2:
            self._factor = 1 + draws.below(count - 1)
            if math.gcd(self._factor, count) == 1:
                break

    def __getitem__(self, slot: int) -> int:
        return (self._factor * slot + self._shift) % self._count if self._count > 2 else slot
