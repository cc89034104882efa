"""Scaling laws: loss as a function of parameters and tokens, fitted to runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Run = tuple[float, float, float]  # parameters, tokens, loss
DELTA = 1e-3  # of the Huber loss, on logarithms


class Law(NamedTuple):
    """loss = floor + a / parameters^alpha + b / tokens^beta (Hoffmann et al. 2022, "Training Compute-Optimal LLMs", equation 2)."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float

    def __call__(self, parameters: float, tokens: float) -> float:
        return self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta

    @property
    def share(self) -> float:
        """The exponent of compute with which the best size grows (equation 4)."""
        return self.beta / (self.alpha + self.beta)


def fit(runs: Sequence[Run], starts: Sequence[Law] = ()) -> Law:
    """The law that is nearest to runs: least Huber loss of the differences of logarithms, by L-BFGS from a grid of starts, the best of
    which counts (section 3.3, equation 3).

    Args:
      starts: where to begin instead of on the grid.
    """
    from scipy.optimize import minimize

    parameters, tokens, losses = (np.log(np.asarray(column, np.float64)) for column in zip(*runs))

    def distance(x: np.ndarray) -> float:
        e, a, b, alpha, beta = x
        predicted = np.logaddexp(np.logaddexp(e, a - alpha * parameters), b - beta * tokens)
        off = np.abs(predicted - losses)
        return float(np.where(off <= DELTA, off**2 / 2, DELTA * (off - DELTA / 2)).sum()) / DELTA**2

    grid = [
        (e, a, b, alpha, beta) for e in (-1, 0, 0.5) for a in (0, 5) for b in (0, 5) for alpha in (0.2, 0.6) for beta in (0.2, 0.6)
    ]  # fmt: skip
    begun = [(math.log(law.floor), math.log(law.a), math.log(law.b), law.alpha, law.beta) for law in starts] or grid
    bounds = [(-30, 5), (-30, 60), (-30, 60), (0, 5), (0, 5)]
    found = [minimize(distance, start, method="L-BFGS-B", bounds=bounds) for start in begun]
    e, a, b, alpha, beta = min(found, key=lambda result: result.fun).x
    return Law(math.exp(e), math.exp(a), math.exp(b), float(alpha), float(beta))


def interval(runs: Sequence[Run], law: Law, draws: int = 100, share: float = 0.9) -> tuple[Law, Law]:
    """The least and the most of each number of the law, of the middle `share` of fits to runs drawn with replacement."""
    rng = np.random.default_rng(0)
    fits = [fit([runs[i] for i in rng.integers(0, len(runs), len(runs))], [law]) for _ in range(draws)]
    low, high = np.quantile(np.asarray(fits), [(1 - share) / 2, (1 + share) / 2], axis=0)
    return Law(*map(float, low)), Law(*map(float, high))
