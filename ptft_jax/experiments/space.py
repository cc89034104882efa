"""What a search draws from: the axes of a sweep, as parameters of an Optuna trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.config.field import hashable
from ptft_jax.errors import UserError
from ptft_jax.experiments import axes as axes_
from ptft_jax.experiments.axes import Axis

NUMBERS = ("uniform", "loguniform")


class Space:
    """The axes of one search.

    Attributes:
      grid: parameter -> its values; {} where one of them has no list.
    """

    def __init__(self, axes: Sequence[Axis], config: Mapping[str, Any]):
        """`config`: nested dicts, checked, which fields that no axis varies are as in. Raises UserError as `axes.points` does."""
        self._config, self._declared = config, axes_.declared_of(config)
        given, self._axes = axes_.prepared(axes, self._declared)
        self._fields = [field for axis in given for field in axis.fields]
        self._names = _names(self._axes)
        lists = {name: self._choices(axis) for name, axis in self._names.items() if axis.draw not in NUMBERS}
        self._lists = lists
        self.grid = {name: list(values) for name, values in lists.items()} if len(lists) == len(self._names) else {}

    @property
    def size(self) -> int:
        """Points of the whole grid."""
        count = 1
        for values in self.grid.values():
            count *= len(values)
        return count

    def check(self, sampler: str) -> list[str]:
        """What people should know of a sampler on these axes. Raises UserError where it cannot draw from them."""
        free = [axis for axis in self._axes if axis.draw in NUMBERS]
        if sampler == "grid" and free:
            bounds = ",".join(str(value) for (value,) in free[0].values)
            raise UserError(
                f"--search=grid: {free[0].name}={free[0].draw}({bounds}) has no list of values: give them (FIELD=A,B,...), or another --search"
            )
        if sampler != "cmaes":
            return []
        searched = [axis for axis in free if not axis.conditions]
        if len(searched) < 2:
            raise UserError(
                f"--search=cmaes: there are {len(searched)} axes of numbers (uniform, loguniform) without conditions: it needs two or more; "
                "--search=tpe takes any"
            )
        others = [axis.name for axis in self._axes if axis not in searched]
        return [
            f"--search=cmaes: {name} is drawn at random: CMA-ES knows numbers without conditions alone"
            for name in others
        ]

    def described(self) -> dict[str, Any]:
        """ "--axis NAME" -> what it is, of JSON's types."""
        return {
            f"--axis {name}": json.loads(json.dumps([axis.draw or "list", axis.values]))
            for name, axis in self._names.items()
        }

    @property
    def fields(self) -> list[str]:
        """All that varies."""
        return self._fields

    def suggest(self, trial: Any) -> dict[str, Any]:
        """A point, drawn by a trial of Optuna."""

        def draw(name: str, axis: Axis) -> Any:
            if name in self._lists:
                return trial.suggest_categorical(name, list(self._lists[name]))
            (least,), (most,) = axis.values
            whole = type(self._declared[axis.fields[0]].default) is int
            suggest = trial.suggest_int if whole else trial.suggest_float
            return suggest(name, least, most, log=axis.draw == "loguniform")

        return self._walked(draw)

    def point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The point that a trial has drawn."""
        return self._walked(lambda name, _: params[name])

    def _walked(self, draw: Callable[[str, Axis], Any]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, axis in self._names.items():
            if axes_.applies(axis, self._config, row):
                drawn = draw(name, axis)
                row |= dict(zip(axis.fields, self._lists[name][drawn] if name in self._lists else (drawn,)))
        return {field: row[field] for field in self._fields if field in row}

    def _choices(self, axis: Axis) -> dict[Any, tuple[Any, ...]]:
        """What Optuna chooses from, which are plain values, -> values of the axis."""
        values = list({hashable(value): value for value in axis.values}.values())
        plain = len(axis.fields) == 1 and all(isinstance(v, (str, int, float, type(None))) for (v,) in values)
        return {value[0] if plain else json.dumps(value): value for value in values}


def _names(axes: Sequence[Axis]) -> dict[str, Axis]:
    """A name for each: its fields, and its conditions where another has the same fields."""
    found: dict[str, Axis] = {}
    fields = [",".join(field.rstrip("_") for field in axis.fields) for axis in axes]
    for name, axis in zip(fields, axes):
        if fields.count(name) > 1:
            told = " and ".join(
                f"{field.rstrip('_')}={','.join(map(str, values))}" for field, values in axis.conditions
            )
            name = f"{name} if {told}"
        found[name] = axis
    return found
