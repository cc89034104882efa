"""What models between two others, and soups, are measured on: the run's own data, and its parent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ptft_jax import loading
from ptft_jax.combining import arithmetic
from ptft_jax.combining.models import Model
from ptft_jax.errors import UserError
from ptft_jax.evaluation.measured import source_settings
from ptft_jax.evaluation.standalone import Measurement
from ptft_jax.params.rules import unflatten
from ptft_jax.training import restore

RULES = ("target", "sum", "budget")
METRICS = {"nll": 1, "accuracy": -1}  # smaller is better, or larger

Params = Mapping[str, np.ndarray]


class Measured:
    """A run's data ("validation", "test") and its parent's ("source", "source_test"), ready to measure parameters on."""

    def __init__(
        self,
        run: str,
        parent: restore.Parent | None = None,
        *,
        data: str = "",
        source: str = "",
        tokens: int | None = None,
        batch_size: int = 16,
    ):
        """
        Args:
          run, parent: the run's reference, and what it was fine-tuned from.
          data, source: other data than the run's and its parent's.
          tokens: use only the first so many of each; 0 = all, None = as the run was evaluated.

        Raises:
          UserError: as `ptft_jax.evaluation.standalone.evaluate`.
        """
        self._loaded = loading.load(run, field="--run")
        config = self._loaded.source.config
        options = {"tokens": config.eval.tokens if tokens is None else tokens, "batch_size": batch_size}
        splits = ("validation", "test") if config.eval.test else ("validation",)
        self._sets = {split: Measurement(self._loaded, data, split, **options) for split in splits}
        reading = {"source": source} if source else source_settings(config, parent)
        if reading is not None:
            reference = reading.pop("source")
            for split in splits:
                name = "source" if split == "validation" else "source_test"
                self._sets[name] = Measurement(self._loaded, reference, split, **options, **reading)

    @property
    def has_source(self) -> bool:
        return "source" in self._sets

    def values(self, params: Params, sets: Sequence[str]) -> dict[str, float]:
        """{"validation/nll": nats a token, ...} on those of the sets that there are."""
        on_device = unflatten({path: jax.device_put(array, jax.devices()[0]) for path, array in params.items()})
        there = [name for name in sets if name in self._sets]
        return {f"{name}/{k}": v for name in there for k, v in self._sets[name].values(on_device).items()}


class Curve(NamedTuple):
    """Rows {"alpha", "validation/nll", "source/nll", ...} in order, and the chosen one."""

    rows: list[dict[str, float]]
    alpha: float


def points(text: str) -> tuple[float, ...]:
    """ "0,0.5,1" as numbers; "0,0.1,...,1" with those between. Raises UserError."""
    words = [word.strip() for word in text.split(",")]
    try:
        if "..." in words:
            if len(words) != 4 or words[2] != "...":
                raise ValueError
            first, second, last = (float(words[i]) for i in (0, 1, 3))
            count = round((last - first) / (second - first)) + 1
            values = tuple(round(first + i * (second - first), 12) for i in range(count))
            if abs(values[-1] - last) > 1e-9:
                raise ValueError
        else:
            values = tuple(map(float, words))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--curve={text}: expected numbers such as 0,0.25,1, or 0,0.1,...,1") from None
    if any(not 0 <= v <= 1 for v in values) or list(values) != sorted(set(values)):
        raise UserError(f"--curve={text}: expected ascending numbers from 0 to 1")
    return values


def curve(
    parent: Params,
    child: Params,
    alphas: Sequence[float],
    measured: Measured,
    *,
    alpha: float | None = None,
    rule: str = "",
    budget: float = 0.0,
) -> Curve:
    """The models at (1 - a) parent + a child, measured on validation data, and the one that is chosen.

    Args:
      alpha: the choice, measured too where it is not among `alphas`.
      rule: the choice where there is no `alpha`: "target" has the least nll on the run's data; "sum" the least on its and
        its parent's data together; "budget" the least on the run's of those whose nll on the parent's data is at most
        `budget` nats above the parent's own. Of equals, the nearest to the parent.
    """
    alphas = sorted({*alphas, *([] if alpha is None else [alpha]), *([0.0] if rule == "budget" else [])})
    rows = [{"alpha": a, **measured.values(between(parent, child, a), ("validation", "source"))} for a in alphas]
    if alpha is not None:
        return Curve(rows, alpha)
    allowed = rows
    if rule == "budget":
        allowed = [row for row in rows if row["source/nll"] <= rows[0]["source/nll"] + budget]
    value = lambda row: row["validation/nll"] + (row["source/nll"] if rule == "sum" else 0.0)  # noqa: E731
    return Curve(rows, min(allowed, key=value)["alpha"])


def between(parent: Params, child: Params, alpha: float) -> dict[str, np.ndarray]:
    """`arithmetic.interpolate` of every leaf."""

    def leaf(path: str) -> np.ndarray:
        return arithmetic.by_layer(
            path, (parent[path], child[path]), lambda _, two: arithmetic.interpolate(*two, alpha)
        )

    return {path: leaf(path) for path in child}


def greedy(
    models: Sequence[Model], measure: Callable[[Params], float], sign: int
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The greedy soup (Wortsman et al. 2022, "Model soups", algorithm 1): the models in order of their held-out value,
    each kept if the mean of what is kept with it is not worse.

    Args:
      measure: the held-out value of parameters; `sign`: 1 where a smaller one is better, -1 where a larger one is.

    Returns:
      The parameters, and for each model in that order {"run", "value" alone, "soup" with it, "kept"}.
    """
    alone = [measure({path: model.leaves[path] for path in model.leaves.shapes}) for model in models]
    if not all(np.isfinite(alone)):
        raise UserError("--method=greedy_soup: a run's held-out value is no number")
    order = sorted(range(len(models)), key=lambda n: sign * alone[n])
    kept: list[Model] = []
    best, soup, steps = None, {}, []
    for n in order:
        trial = {
            path: arithmetic.by_layer(
                path, [m.leaves[path] for m in (*kept, models[n])], lambda _, arrays: arithmetic.mean(arrays)
            )
            for path in models[n].leaves.shapes
        }
        value = measure(trial) if kept else alone[n]
        keep = best is None or sign * value <= sign * best
        if keep:
            kept, best, soup = [*kept, models[n]], value, trial
        steps.append({"model": n, "run": models[n].name, "value": alone[n], "soup": value, "kept": keep})
    return soup, steps
