"""What models between two others, and soups, are measured on: the run's own data, and its parent's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ptft_jax.combining import arithmetic
from ptft_jax.combining.models import Model
from ptft_jax.errors import UserError
from ptft_jax.evaluation.measured_sets import source_settings
from ptft_jax.evaluation.standalone import Measurement
from ptft_jax.params.rules import unflatten
from ptft_jax.runs import loading
from ptft_jax.runs.parent import Parent

RULES = ("target", "sum", "budget")
MOST = 1001  # models on a curve
METRICS = {"nll": 1, "accuracy": -1, "mse": 1, "pearson": -1, "spearman": -1}  # smaller is better, or larger

Params = Mapping[str, np.ndarray]


class Measured:
    """A run's data ("validation", "test") and its parent's ("source", "source_test"), ready to measure parameters on."""

    def __init__(
        self,
        run: str,
        parent: Parent | None = None,
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
        """{"validation/nll": nats per token, ...} on those of the sets that there are."""
        on_device = unflatten({path: jax.device_put(array, jax.devices()[0]) for path, array in params.items()})
        there = [name for name in sets if name in self._sets]
        return {f"{name}/{k}": v for name in there for k, v in self._sets[name].values(on_device).items()}


class Curve(NamedTuple):
    """Rows {"alpha", "validation/nll", "source/nll", ...} in order, and the chosen one."""

    rows: list[dict[str, float]]
    alpha: float


def points(text: str) -> tuple[float, ...]:
    """ "0,0.5,1" as numbers; "0,0.1,...,1" with those between.

    Raises:
      UserError: no such list, or one that is not ascending from 0 to 1, or of more than `MOST` numbers.
    """
    words = [word.strip() for word in text.split(",")]
    between = len(words) == 4 and words[2] == "..."
    wrong = f"--curve={text}: expected numbers such as 0,0.25,1, or 0,0.1,...,1"
    try:
        values = tuple(float(word) for word in (words[:2] + words[3:] if between else words))
    except ValueError:
        raise UserError(wrong) from None
    if not all(0 <= v <= 1 for v in values) or (between and values[0] >= values[1]):
        raise UserError(f"--curve={text}: expected ascending numbers from 0 to 1")
    # Counted before they are made: a step may be as small as a float is.
    steps = (values[-1] - values[0]) / (values[1] - values[0]) if between else len(values) - 1
    if steps > MOST - 0.5:
        raise UserError(f"--curve={text}: expected at most {MOST} numbers, as each is a model that is measured")
    if between:
        first, second, last = values
        values = tuple(round(first + n * (second - first), 12) for n in range(round(steps) + 1))
        if not values or abs(values[-1] - last) > 1e-9:
            raise UserError(wrong)
    if list(values) != sorted(set(values)):
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
        `budget` nats above the parent's own. Of equals, the nearest to the parent. What has a loss that is no finite
        number is not chosen by a rule.

    Raises:
      UserError: nothing is left for the rule to choose from.
    """
    alphas = sorted({*alphas, *([] if alpha is None else [alpha]), *([0.0] if rule == "budget" else [])})
    rows = [{"alpha": a, **measured.values(between(parent, child, a), ("validation", "source"))} for a in alphas]
    if alpha is not None:
        return Curve(rows, alpha)
    losses = ("validation/nll",) if rule == "target" else ("validation/nll", "source/nll")
    if missing := [key for key in losses if key not in rows[0]]:
        measured_too = ", ".join(key for key in rows[0] if key != "alpha")
        raise UserError(
            f"--rule={rule} chooses by {missing[0]}, and what is measured is {measured_too}; --alpha chooses one"
        )
    allowed = [row for row in rows if all(math.isfinite(row[key]) for key in losses)]
    if rule == "budget":
        most = rows[0]["source/nll"] + budget  # none are allowed where the parent's own is not finite
        allowed = [row for row in allowed if row["source/nll"] <= most < math.inf]
    if not allowed:
        within = f" within the budget of {budget:g} above the parent's" if rule == "budget" else ""
        raise UserError(
            f"--rule={rule}: none of the {len(rows)} models on the curve has {' and '.join(losses)} that are finite "
            f"numbers{within}; --alpha chooses one whatever is measured"
        )
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
    """The greedy soup (Wortsman et al. 2022, "Model soups", algorithm 1): the models in order of their validation score,
    each kept if the mean of what is kept with it is not worse.

    Args:
      measure: the validation score of parameters; `sign`: 1 where a smaller one is better, -1 where a larger one is.

    Returns:
      The parameters, and for each model in that order {"run", "value" alone, "soup" with it, "kept"}.
    """
    alone = [measure({path: model.leaves[path] for path in model.leaves.shapes}) for model in models]
    if not all(np.isfinite(alone)):
        raise UserError("--method=greedy_soup: a run's validation score is not finite")
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
