"""Scaling laws: loss as a function of parameters and tokens, fitted to runs and drawn over them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Run = tuple[float, float, float]  # parameters, tokens, loss
DELTA = 1e-3  # of the Huber loss, on logarithms
STEEPEST = 5.0  # exponent that is looked for


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
        """The exponent of compute with which the best size grows (equation 4); 0 where loss falls with neither."""
        return self.beta / ((self.alpha + self.beta) or 1.0)


def fit(runs: Sequence[Run], starts: Sequence[Law] = ()) -> Law:
    """The law that is nearest to runs: least Huber loss of the differences of logarithms, by L-BFGS from a grid of starts, the best of
    which counts (section 3.3, equation 3).

    Args:
      starts: where to begin instead of on the grid.
    """
    from scipy.optimize import minimize

    parameters, tokens, losses = (np.log(np.asarray(column, np.float64)) for column in zip(*runs))

    def distance(x: np.ndarray) -> tuple[float, np.ndarray]:
        """And its gradient: of a sum of exponentials that is each term's share."""
        e, a, b, alpha, beta = x
        terms = np.stack([np.full_like(losses, e), a - alpha * parameters, b - beta * tokens])
        predicted = np.logaddexp.reduce(terms)
        off = predicted - losses
        far = np.abs(off)
        value = np.where(far <= DELTA, off**2 / 2, DELTA * (far - DELTA / 2)).sum() / DELTA**2
        of_e, of_a, of_b = np.exp(terms - predicted) * np.clip(off, -DELTA, DELTA) / DELTA**2
        slope = [of_e.sum(), of_a.sum(), of_b.sum(), -(of_a @ parameters), -(of_b @ tokens)]
        return float(value), np.asarray(slope)

    grid = [
        (e, a, b, alpha, beta) for e in (-1, 0, 0.5) for a in (0, 5) for b in (0, 5) for alpha in (0.2, 0.6) for beta in (0.2, 0.6)
    ]  # fmt: skip
    begun = [(math.log(law.floor), math.log(law.a), math.log(law.b), law.alpha, law.beta) for law in starts] or grid
    bounds = [(-30, 5), (-30, 60), (-30, 60), (0, STEEPEST), (0, STEEPEST)]
    found = [minimize(distance, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in begun]
    e, a, b, alpha, beta = min(found, key=lambda result: result.fun).x
    return Law(math.exp(e), math.exp(a), math.exp(b), float(alpha), float(beta))


def refits(runs: Sequence[Run], law: Law, draws: int = 100) -> list[Law]:
    """Fits to runs drawn with replacement, each begun at the law of all."""
    rng = np.random.default_rng(0)
    return [fit([runs[i] for i in rng.integers(0, len(runs), len(runs))], [law]) for _ in range(draws)]


def interval(fits: Sequence[Law], number: Callable[[Law], float], share: float = 0.9) -> tuple[float, float]:
    """The least and the most of a number of laws, of the middle `share` of them: a percentile bootstrap where they are `refits`."""
    low, high = np.quantile([number(law) for law in fits], [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def table(law: Law, fits: Sequence[Law]) -> list[dict[str, float | str]]:
    """A row per number of a law, with its 90% interval by `refits`."""
    named = {
        "E: floor, nats": "floor",
        "A": "a",
        "B": "b",
        "a: exponent of parameters": "alpha",
        "b: exponent of tokens": "beta",
        "b / (a + b): exponent of compute of the best size": "share",
    }
    rows: list[dict[str, float | str]] = []
    for said, name in named.items():
        number = operator.attrgetter(name)
        low, high = interval(fits, number)
        rows.append({"number": said, "value": number(law), "least": low, "most": high})
    return rows


def figure(
    lines: Mapping[str, Mapping[tuple[float, float], float]],
    law: Law,
    fits: Sequence[Law],
    *,
    over: int,
    title: str,
    x: str,
    apart: Collection[tuple[float, float]] = (),
) -> str:
    """Losses as dots, a line of the law and its 90% band by `refits`, as <svg>.

    Args:
      lines: what is drawn in one color: (parameters, tokens) -> loss.
      over: which of the two is across: 0 or 1.
      apart: places that the law was not fitted to, drawn as rings.
    """
    from ptft_jax.reporting import plots

    drawn, axes = plots.framed(7.2, 3.6, title, x, "nll")
    colors = plots.palette(lines)
    for name, points in lines.items():
        ends = [place[over] for place in points]
        fixed = next(iter(points))[1 - over]
        across = np.geomspace(min(ends), max(ends), 30)
        places = [(at, fixed) if over == 0 else (fixed, at) for at in across]
        axes.plot(across, [law(*place) for place in places], "-", color=colors[name], linewidth=1.4, label=name)
        band = [interval(fits, operator.methodcaller("__call__", *place)) for place in places]
        axes.fill_between(across, *zip(*band), color=colors[name], alpha=0.18, linewidth=0)
        for place, loss in points.items():
            face = "white" if place in apart else colors[name]
            axes.plot(place[over], loss, "o", color=colors[name], markerfacecolor=face, markersize=5)
    plots.logarithmic(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return plots.svg(drawn)
