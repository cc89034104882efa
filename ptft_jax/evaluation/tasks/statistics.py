"""Figures of behavior from what was observed: NumPy alone, in float64. docs/behavior.md has the formulas and their sources."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Floats = Sequence[float] | np.ndarray


class Bin(NamedTuple):
    """Choices that are about as sure: how many, the means of how sure and of how often right, and the bin's edges."""

    count: int  # type: ignore[assignment]  # tuples have a method of that name
    sure: float
    right: float
    low: float
    high: float


class Split(NamedTuple):
    """Where a sequence of accuracies drops: after so many periods; accuracy of what is before and after, and by how many nats that is more
    likely than one accuracy for all."""

    after: int
    accuracy_before: float
    accuracy_after: float
    log_ratio: float


def normalized(log_probs: Sequence[float]) -> np.ndarray:
    """float64 [K]: probabilities of K options among themselves, from their log-probabilities."""
    logs = np.asarray(log_probs, np.float64)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def auroc(scores: Floats, positive: Sequence[bool] | np.ndarray) -> float:
    """The probability that a positive has a larger score than a negative, ties counting half (Mann-Whitney's U over the number of
    pairs; Fawcett 2006, section 7). NaN without one of the two."""
    scores_, positive_ = np.asarray(scores, np.float64), np.asarray(positive, bool)
    above, below = int(positive_.sum()), int((~positive_).sum())
    if not above or not below:
        return math.nan
    _, inverse, counts = np.unique(scores_, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal scores, from 1
    return float((rank[inverse][positive_].sum() - above * (above + 1) / 2) / (above * below))


def risk_coverage(confidence: Floats, wrong: Sequence[bool] | np.ndarray) -> np.ndarray:
    """float64 [n]: the share that is wrong of the k most confident, k = 1 to n (selective risk; Geifman & El-Yaniv 2017, section 2). Of
    equally confident ones the expectation over their orders."""
    confidence_, wrong_ = np.asarray(confidence, np.float64), np.asarray(wrong, np.float64)
    _, rank, counts = np.unique(-confidence_, return_inverse=True, return_counts=True)
    expected = np.repeat(np.bincount(rank, wrong_) / counts, counts)
    return np.cumsum(expected) / np.arange(1, len(wrong_) + 1)


def reliability(sure: Sequence[float], right: Sequence[bool], bins: int, equal_mass: bool = False) -> list[Bin]:
    """The bins that hold something, from the least sure.

    Args:
      sure: probabilities of what was chosen.
      bins: how many there are, of equal width in [0, 1], each open below and closed above as Guo et al. 2017 (section 2) have them (the
        first is closed on both sides); with `equal_mass` of equally many choices, the larger ones first where that does not go up evenly, in the
        order of `sure` (Nguyen & O'Connor 2015, section 4); those that are equally sure are in one, whatever the order of the input.
    """
    sure_, right_ = np.asarray(sure, np.float64), np.asarray(right, np.float64)
    if equal_mass:
        order = np.argsort(sure_, kind="stable")
        number = np.concatenate([np.full(len(part), n) for n, part in enumerate(np.array_split(order, bins))])
        number = number[np.searchsorted(sure_[order], sure_[order])]  # that of the first that is as sure
        parts = [order[number == n] for n in range(bins)]
        edges = [(sure_[part[0]], sure_[part[-1]]) if len(part) else (0.0, 0.0) for part in parts]
    else:
        number = np.clip(np.searchsorted(np.arange(bins + 1) / bins, sure_) - 1, 0, bins - 1)
        parts = [np.flatnonzero(number == n) for n in range(bins)]
        edges = [(n / bins, (n + 1) / bins) for n in range(bins)]
    return [
        Bin(len(part), float(sure_[part].mean()), float(right_[part].mean()), float(low), float(high))
        for part, (low, high) in zip(parts, edges)
        if len(part)
    ]


def expected_error(found: Sequence[Bin]) -> float:
    """The expected calibration error: the mean over choices of |how sure - how often right| of their bin (Guo et al. 2017, equation 3)."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.sure - one.right) for one in found) / total


def brier(probabilities: Sequence[Floats], right: Sequence[int]) -> float:
    """The mean over questions of the sum over options of (p - 1[right])^2, from 0 to 2 (Brier 1950, equation 2)."""
    rows = [np.sum((np.asarray(p) - (np.arange(len(p)) == r)) ** 2) for p, r in zip(probabilities, right)]
    return float(np.mean(rows))


def wilson(count: int, total: int, level: float) -> tuple[float, float]:
    """The interval of a share by Wilson's score (Wilson 1927; Brown et al. 2001, equation 4)."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    p, spread = count / total, z * z / total
    middle = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / total + spread / (4 * total))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap_gap(groups: Sequence[Floats], level: float, resamples: int, seed: int) -> tuple[float, float]:
    """The percentile interval of the largest mean of a group less the smallest (Efron & Tibshirani 1993, section 13.3): the groups that have
    these in what was observed are drawn anew, each with replacement."""
    means = [float(np.mean(group)) for group in groups]
    high, low = (np.asarray(groups[pick(range(len(means)), key=means.__getitem__)], float) for pick in (max, min))
    random = np.random.default_rng(seed)
    gaps = [random.choice(high, len(high)).mean() - random.choice(low, len(low)).mean() for _ in range(resamples)]
    tail = (1 - level) / 2
    found = np.quantile(gaps, [tail, 1 - tail])
    return float(found[0]), float(found[1])


def divergence(true: Sequence[float], log_probs: Sequence[float]) -> float:
    """KL(true || model) in nats (Kullback & Leibler 1951), the model's options having these log-probabilities, of which only differences
    count."""
    logs = np.asarray(log_probs, np.float64)
    logs = logs - logs.max()  # probabilities themselves could be too small to be told from 0
    logs = logs - math.log(np.exp(logs).sum())
    return float(sum(t * (math.log(t) - log_p) for t, log_p in zip(true, logs.tolist(), strict=True) if t))


def total_variation(true: Sequence[float], model: Sequence[float]) -> float:
    """Half of the sum of absolute differences."""
    return sum(abs(t - m) for t, m in zip(true, model, strict=True)) / 2


def drop(right: Sequence[int], total: Sequence[int]) -> Split | None:
    """The most likely place where accuracy falls from one value to a smaller one, by the likelihood of two binomials (a change point; Hinkley
    1970); None where it falls nowhere. Of equally likely places the first.

    Args:
      right, total: of each period, in order.
    """
    right_, total_ = np.asarray(right, float), np.asarray(total, float)
    alone = _likelihood(right_.sum(), total_.sum())
    best: Split | None = None
    for after in range(1, len(right_)):
        a, n = right_[:after].sum(), total_[:after].sum()
        b, m = right_[after:].sum(), total_[after:].sum()
        gain = _likelihood(a, n) + _likelihood(b, m) - alone
        if a / n > b / m and (best is None or gain > best.log_ratio + 1e-12):
            best = Split(after, a / n, b / m, gain)
    return best


def _likelihood(right: float, total: float) -> float:
    """The largest log-likelihood of so many right ones of all."""
    return sum(k * math.log(k / total) for k in (right, total - right) if k)


def ridge_accuracy(
    train_ND: np.ndarray, classes_N: np.ndarray, test_MD: np.ndarray, expected_M: np.ndarray, strength: float
) -> float:
    """The accuracy on held-out rows of a linear probe by least squares on one-hot targets with an L2 penalty `strength` and an intercept
    without one (Hoerl & Kennard 1970; as scikit-learn's RidgeClassifier but for its targets of -1 and 1, which choose the same class).

    Args:
      classes_N, expected_M: numbers of classes.
    """
    x, mean = np.asarray(train_ND, np.float64), np.asarray(train_ND, np.float64).mean(0)
    count = int(max(classes_N.max(), expected_M.max())) + 1
    y = np.eye(count)[classes_N]
    x = x - mean
    right = x.T @ (y - y.mean(0))
    if x.shape[0] < x.shape[1] and strength > 0:  # the same by the kernel, smaller
        weights = x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y - y.mean(0))
    elif strength > 0:
        weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), right)
    else:
        weights = np.linalg.lstsq(x, y - y.mean(0), rcond=None)[0]
    scores = (np.asarray(test_MD, np.float64) - mean) @ weights + y.mean(0)
    return float(np.mean(scores.argmax(1) == expected_M))
