"""In which order the rows of a source are drawn: permutations that are computed place by place, many places at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ptft_jax.config.seeds import Use, mixed

_ROUNDS = 4
_LEAST_BITS = 16  # of a block of the cipher


class Order:
    """In which order the rows of a source are drawn: every row once an epoch, shuffled again in each. Of at most 65,536 rows the
    orders of the latest epochs are held."""

    def __init__(self, rows: int, seed: int, source: int):
        """`source`: its number in the mixture; two sources of one seed are unrelated, and so are two seeds, in every epoch."""
        self._rows, self._seed, self._source = rows, seed, source
        self._whole = functools.lru_cache(maxsize=2)(_whole)  # draws of a batch lie in an epoch, or two

    def __getitem__(self, draw: int) -> int:
        return int(self.rows(np.asarray([draw]))[0])

    def rows(self, draws: np.ndarray) -> np.ndarray:
        """int64 [n]: the rows of these draws, int64 [n]."""
        epochs, places = np.divmod(np.asarray(draws, np.int64), self._rows)
        found = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            # Not grain's own repetition: it adds the epoch to the seed.
            seed = mixed(self._seed, Use.ORDER, self._source, epoch)
            found[here] = shuffled(places[here], self._rows, seed, self._whole)
        return found


def _whole(count: int, seed: int) -> np.ndarray:
    """int64 [count]: `shuffled` of every place, of at most 2^16: a block holds many more numbers than `count`, so that most of the
    time goes to walking back into its range, which is here done for all at once."""
    if count <= 1:
        return np.zeros(count, np.int64)
    numbers = np.arange(1 << _LEAST_BITS)
    following = _encrypted(numbers.astype(np.uint64), seed, _LEAST_BITS // 2).astype(np.int64)
    # Where each number's walk is after 1, 2, 4, ... steps; it stays where it is in range.
    reached = np.where(numbers < count, numbers, following)
    while (following[:count] >= count).any():
        following[:count] = reached[following[:count]]
        reached = reached[reached]
    return following[:count].copy()


def shuffled(places: np.ndarray, count: int, seed: int, whole: Callable[[int, int], np.ndarray] = _whole) -> np.ndarray:
    """int64 [n]: what stands at these places of the numbers below `count`, shuffled with a seed of 32 bits.

    The permutation is that of grain's `index_shuffle` with four rounds, number for number (but where grain's is none, of 2^k + 1
    numbers), which is called for one place at a time: a Simon cipher (Beaulieu et al. 2013) whose blocks hold `count` numbers,
    applied again while it leaves their range (cycle walking, Black and Rogaway 2002), and whose round keys are those of C++'s
    `seed_seq`.

    Args:
      whole: what gives the permutation of at most 2^16 numbers, as an array, by `count` and `seed`; it may remember it.
    """
    if count <= 1 << _LEAST_BITS:
        return whole(count, seed)[places]
    bits = (count - 1).bit_length()
    half = (bits + bits % 2) // 2
    found = np.array(places, np.uint64)
    left = np.arange(len(found))  # those that are still out of range
    while len(left):
        found[left] = _encrypted(found[left], seed, half)
        left = left[found[left] >= count]
    return found.astype(np.int64)


def _encrypted(values: np.ndarray, seed: int, half: int) -> np.ndarray:
    """Blocks of two words of `half` bits each, uint64 [n]."""
    mask, width = np.uint64((1 << half) - 1), np.uint64(half)
    keys = np.asarray(_keys(seed), np.uint64) & mask

    def mix(word: np.ndarray) -> np.ndarray:
        one, two, eight = ((word << np.uint64(r) | word >> np.uint64(half - r)) & mask for r in (1, 2, 8))
        return (one & eight) ^ two

    high, low = values >> width & mask, values & mask
    for first, second in zip(keys[::2], keys[1::2]):
        high = high ^ mix(low) ^ first
        low = low ^ mix(high) ^ second
    return high << width | low


@functools.lru_cache(maxsize=64)
def _keys(seed: int) -> Sequence[int]:
    """The first words that `std::seed_seq` makes of one number, by the C++ standard (rand.util.seedseq): all sums and products
    are of 32 bits."""
    n, low = _ROUNDS, 0xFFFFFFFF
    found = [0x8B8B8B8B] * n
    t = (n - 1) // 2
    p = (n - t) // 2
    q = p + t
    rounds = max(2, n)  # seeds + 1, words

    def scrambled(x: int) -> int:
        return x ^ (x >> 27)

    for k in range(rounds):
        r1 = 1664525 * scrambled(found[k % n] ^ found[(k + p) % n] ^ found[(k - 1) % n]) & low
        r2 = r1 + (1 if k == 0 else k % n + (seed if k == 1 else 0)) & low
        found[(k + p) % n] = found[(k + p) % n] + r1 & low
        found[(k + q) % n] = found[(k + q) % n] + r2 & low
        found[k % n] = r2
    for k in range(rounds, rounds + n):
        r3 = 1566083941 * scrambled(found[k % n] + found[(k + p) % n] + found[(k - 1) % n] & low) & low
        r4 = r3 - k % n & low
        found[(k + p) % n] ^= r3
        found[(k + q) % n] ^= r4
        found[k % n] = r4
    return found
