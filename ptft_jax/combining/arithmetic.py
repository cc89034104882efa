"""The formulas, on arrays of one shape: NumPy in, NumPy out. Sums are taken in float64 and rounded once.

A task vector is what fine-tuning added to its start, child - base (Ilharco et al. 2023, "Editing Models with Task
Arithmetic"). Where one is pruned, it is taken in float32.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ptft_jax.config import seeds
from ptft_jax.params.rules import layers_of

Arrays = Sequence[np.ndarray]


def wider(arrays: Iterable[np.ndarray]) -> np.dtype:
    """The least dtype that holds the numbers of all: float32 beside bfloat16, and of bfloat16 and float16."""
    dtypes = list(dict.fromkeys(np.dtype(array.dtype) for array in arrays))
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    return widest if [d.itemsize for d in dtypes].count(widest.itemsize) == 1 else np.dtype(np.float32)


def interpolate(parent: np.ndarray, child: np.ndarray, alpha: float) -> np.ndarray:
    """(1 - alpha) parent + alpha child, in the wider dtype; at 0 and 1 the numbers of the one or the other (Wortsman et
    al. 2022, "Robust fine-tuning of zero-shot models", section 3)."""
    dtype = wider((parent, child))
    if alpha in (0.0, 1.0):
        return (child if alpha else parent).astype(dtype)
    return ((1 - alpha) * _wide(parent) + alpha * _wide(child)).astype(dtype)


def mean(arrays: Arrays, weights: Sequence[float] = ()) -> np.ndarray:
    """The mean in the widest dtype, each array as often as its weight says, () = once: a soup (Wortsman et al. 2022, "Model
    soups", table 2). Unweighted, of equal arrays it is that array, bit for bit: in float64 a sum of equal float32 numbers is
    exact."""
    weights = tuple(weights) or (1.0,) * len(arrays)
    total = weights[0] * _wide(arrays[0])
    for array, weight in zip(arrays[1:], weights[1:]):
        total = total + weight * _wide(array)
    return (total / sum(weights)).astype(wider(arrays))


# Directions that are nearer than this, as cosine, are on a line: the quotient of sines would be of rounding.
_NEAR = 1 - 1e-9


def slerp(first: np.ndarray, second: np.ndarray, alpha: float) -> np.ndarray:
    """Between two arrays along the arc between their directions, in the wider dtype: with the angle t between them, as vectors,
    (sin((1 - alpha) t) first + sin(alpha t) second) / sin(t) (Shoemake 1985, "Animating Rotation with Quaternion Curves", section
    3.3). Where there is no arc (parallel, opposite, or zero), as `interpolate`; at 0 and 1 the numbers of the one or the other."""
    a, b = _wide(first).ravel(), _wide(second).ravel()
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(a @ b / lengths) if lengths and np.isfinite(lengths) else 1.0
    if alpha in (0.0, 1.0) or abs(cosine) > _NEAR:
        return interpolate(first, second, alpha)
    angle = np.arccos(cosine)
    between = (np.sin((1 - alpha) * angle) * a + np.sin(alpha * angle) * b) / np.sin(angle)
    return between.reshape(first.shape).astype(wider((first, second)))


def task(base: np.ndarray, children: Arrays, weights: Sequence[float]) -> np.ndarray:
    """base + the sum of weight * (child - base), in the widest dtype (Ilharco et al. 2023, section 2)."""
    total = _wide(base)
    for child, weight in zip(children, weights):
        total = total + weight * (_wide(child) - _wide(base))
    return total.astype(wider((base, *children)))


def vector(base: np.ndarray, child: np.ndarray) -> np.ndarray:
    """child - base, float32."""
    return (_wide(child) - _wide(base)).astype(np.float32)


def weighted(vectors: Arrays, weights: Sequence[float]) -> np.ndarray:
    """The sum of weight * vector, float64."""
    total = np.zeros(vectors[0].shape, np.float64)
    for one, weight in zip(vectors, weights):
        total += weight * _wide(one)
    return total


def trim(one: np.ndarray, density: float) -> np.ndarray:
    """The vector with zeros in place of all but the int(density * size) largest magnitudes, and what equals the least of
    those (Yadav et al. 2023, "TIES-Merging", algorithm 1, step 1)."""
    return above(one, threshold(lambda: (one,), density))


def above(one: np.ndarray, least: float) -> np.ndarray:
    """The vector with zeros in place of magnitudes below `least`."""
    return np.where(np.abs(one) >= least, one, np.zeros((), one.dtype))


def threshold(parts: Callable[[], Iterable[np.ndarray]], density: float) -> float:
    """The least of the int(density * size) largest magnitudes of a float32 vector that is given in parts; infinity where
    none are kept.

    The parts are gone through twice and never held together: floats above zero are ordered like their bits, so the first
    counts the upper half of the bits, the second the lower half of those that share the one searched for.
    """
    upper = np.zeros(1 << 16, np.int64)
    for part in parts():
        upper += np.bincount(_bits(part) >> 16, minlength=1 << 16)
    kept = int(density * int(upper.sum()))
    if not kept:
        return float("inf")
    high, left = _counted_down(upper, kept)
    lower = np.zeros(1 << 16, np.int64)
    for part in parts():
        bits = _bits(part)
        lower += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    low, _ = _counted_down(lower, left)
    return float(np.uint32(high << 16 | low).view(np.float32))


def _counted_down(counts: np.ndarray, kept: int) -> tuple[int, int]:
    """The bin that holds the kept-th largest, and its place in there, from 1."""
    from_above = np.cumsum(counts[::-1])
    at = int(np.searchsorted(from_above, kept))
    return len(counts) - 1 - at, kept - int(from_above[at - 1] if at else 0)


def _bits(part: np.ndarray) -> np.ndarray:
    return np.abs(part).astype(np.float32).reshape(-1).view(np.uint32)


def ties(vectors: Arrays, weights: Sequence[float], sign: str = "total") -> np.ndarray:
    """One vector of trimmed ones, float64: at each place the mean of weight * vector over those with the elected sign
    (Yadav et al. 2023, algorithm 1, steps 2 and 3; the weights as PEFT has them: they do not vote).

    Args:
      sign: what is elected: that of the sum, "total" (the paper's), or the one that most have, "frequency"; where they
        balance, plus.
    """
    votes = np.zeros(vectors[0].shape, np.float64)
    for one in vectors:
        votes += np.sign(one) if sign == "frequency" else one
    elected = np.where(votes >= 0, 1, -1)
    total, count = np.zeros_like(votes), np.zeros_like(votes)
    for one, weight in zip(vectors, weights):
        agrees = np.sign(one) == elected
        total += np.where(agrees, weight * _wide(one), 0.0)
        count += agrees
    return total / np.maximum(count, 1)


def drop(one: np.ndarray, density: float, *place: int | str) -> np.ndarray:
    """Each number kept with probability `density` and divided by it, else zero (Yu et al. 2024, "Language Models are
    Super Mario", equations 1 and 2, with the drop rate p = 1 - density).

    Args:
      place: seed, then whatever tells this vector from others; the draw is a function of these.
    """
    import jax

    seed, *rest = place
    key = seeds.key(int(seed))
    for part in rest:
        key = jax.random.fold_in(key, zlib.crc32(str(part).encode()))
    kept = np.asarray(jax.random.bernoulli(key, density, one.shape))
    return np.where(kept, one / np.float32(density), np.zeros((), one.dtype))


# How vectors become one: what is zeroed of each first, and how what is left is put together.
RULES = {
    "linear": ("", "sum"),
    "magnitude_prune": ("magnitude", "sum"),
    "ties": ("magnitude", "ties"),
    "dare_linear": ("random", "sum"),
    "dare_ties": ("random", "ties"),
}


def merge(rule: str, pruned: Arrays, weights: Sequence[float], sign: str = "total") -> np.ndarray:
    """One vector, float64, of those that were pruned as the rule has it."""
    return ties(pruned, weights, sign) if RULES[rule][1] == "ties" else weighted(pruned, weights)


def by_layer(path: str, arrays: Arrays, compute: Callable[[int, list[np.ndarray]], np.ndarray]) -> np.ndarray:
    """compute(layer, arrays) for each layer of a stacked leaf, stacked; for another leaf once, with layer 0. What is
    computed in a wider type is then no larger than a layer."""
    layers = layers_of(path, arrays[0].shape)
    if layers is None:
        return compute(0, list(arrays))
    first = compute(0, [array[0] for array in arrays])
    out = np.empty((layers, *first.shape), first.dtype)
    out[0] = first
    for layer in range(1, layers):
        out[layer] = compute(layer, [array[layer] for array in arrays])
    return out


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)
