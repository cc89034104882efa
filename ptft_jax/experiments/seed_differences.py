"""Differences of two ways over the same seeds: intervals by the bootstrap, p-values of the t-test, and Holm's correction of several."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

SEED, RESAMPLES, LEVEL = 0, 10_000, 0.95  # of the bootstrap


class Difference(NamedTuple):
    """A mean difference over seeds.

    Attributes:
      low, high: ends of its bootstrap interval at `LEVEL`; None of one seed.
      p: two-sided, of the paired t-test of no difference; None of one seed.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int


def difference(values: Sequence[float]) -> Difference:
    """What differences, one per seed, say. Values are finite, and there is one at least."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return Difference(mean, None, None, None, len(values))
    return Difference(mean, *interval(values), p_value(values), len(values))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile interval of the mean (Efron & Tibshirani 1993, section 13.3), of `RESAMPLES` resamples drawn by `SEED`."""
    import numpy as np

    means = np.asarray(values, np.float64)[_resamples(len(values))].mean(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _resamples(count: int) -> np.ndarray:
    """[resamples, count] places; the same for all differences of as many seeds."""
    import numpy as np

    return np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))


def p_value(values: Sequence[float]) -> float:
    """Of Student's t-test that differences have a mean of 0; 0 where all of them are the same, and not 0."""
    from scipy.special import stdtr  # JAX needs SciPy

    mean, deviation = statistics.mean(values), statistics.stdev(values)
    if deviation == 0:
        return float(mean == 0)
    t = mean / (deviation / math.sqrt(len(values)))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for that there are several (Holm 1979): that of any true hypothesis is below a level as rarely as the level says."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
