"""What a sweep varies: fields of a config, by values that are named or drawn, alone, together, or where another has a value."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.field import Field, hashable, shown
from ptft_jax.config.other_names import advice
from ptft_jax.config.tree import HOW
from ptft_jax.errors import UserError, nearest

Point = dict[str, Any]  # dotted field -> value
DRAWS = ("uniform", "loguniform", "choice")


@dataclasses.dataclass(frozen=True)
class Axis:
    """Fields that vary together.

    Attributes:
      fields: dotted, as `optimizer.learning_rate`.
      values: a tuple for each alternative, a value for each field; of a draw, of one field: its bounds, or what it chooses from.
      draw: "" = every alternative is a point; else of `DRAWS`, and each sample has one.
      conditions: (field, values): the axis is there only where the field has one of these.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    draw: str = ""
    conditions: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def when(self, field: str, *values: Any) -> Axis:
        """The axis, only where `field` has one of `values`; elsewhere its fields stay as the config has them."""
        return dataclasses.replace(self, conditions=(*self.conditions, (_spelled(field), values)))

    @property
    def name(self) -> str:
        """For messages."""
        return f"--axis {','.join(field.rstrip('_') for field in self.fields)}"


def grid(field: str, *values: Any) -> Axis:
    """Every one of these values."""
    return Axis((_spelled(field),), tuple((value,) for value in values))


def zipped(fields: Sequence[str], *values: Sequence[Any]) -> Axis:
    """Several fields, which vary together: each of `values` has one for each field."""
    return Axis(tuple(map(_spelled, fields)), tuple(map(tuple, values)))


def uniform(field: str, least: float, most: float) -> Axis:
    """Drawn between two numbers, all equally likely; whole where the field is."""
    return Axis((_spelled(field),), ((least,), (most,)), "uniform")


def loguniform(field: str, least: float, most: float) -> Axis:
    """Drawn between two numbers above 0, all magnitudes equally likely; whole where the field is."""
    return Axis((_spelled(field),), ((least,), (most,)), "loguniform")


def choice(field: str, *values: Any) -> Axis:
    """Drawn from these values."""
    return Axis((_spelled(field),), tuple((value,) for value in values), "choice")


def points(axes: Sequence[Axis], config: Mapping[str, Any], *, samples: int = 1, seed: int = 0) -> list[Point]:
    """All points: the product of what is not drawn, for each of `samples` draws of all that is. None is there twice.

    What is drawn for a field follows from the seed, the field and the number of the sample alone: it stays as it is when samples or
    other axes are added. Numbers have four significant digits.

    Args:
      axes: in the order in which points are named; those with conditions may stand before what they ask for.
      config: nested dicts, checked, which fields that no axis varies are as in.

    Raises:
      UserError: a field that there is not, that two axes vary, or that decides nothing that is computed; no value; one that the
        field does not take; bounds that are none; a condition that waits for its own axis.
    """
    return sampled(axes, config, samples=samples, seed=seed)[0]


def sampled(
    axes: Sequence[Axis], config: Mapping[str, Any], *, samples: int = 1, seed: int = 0
) -> tuple[list[Point], int]:
    """As `points`, and how many of the samples are as one before them in all that is drawn."""
    declared = declared_of(config)
    checked, order = prepared(axes, declared)
    if samples < 1:
        raise UserError(f"--samples={samples}: expected 1 or more")
    found: dict[Any, Point] = {}
    named = [field for axis in checked for field in axis.fields]
    repeats = 0
    for sample in range(samples if any(axis.draw for axis in checked) else 1):
        before = len(found)
        for point in _expanded(order, config, sample, seed, declared):
            sorted_ = {field: point[field] for field in named if field in point}
            found.setdefault(tuple((k, hashable(v)) for k, v in sorted_.items()), sorted_)
        repeats += len(found) == before
    return list(found.values()), repeats


def declared_of(config: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that a config's axes may vary, by their dotted names."""
    return dict(configs.fields(configs.tree_of(tuple(config.get("plugins", ())))))


def prepared(axes: Sequence[Axis], declared: Mapping[str, Field]) -> tuple[list[Axis], list[Axis]]:
    """The axes with their values in the types of their fields: as they are given, and each behind those that vary what it asks for.
    Raises UserError as `points` does."""
    checked = [_checked(axis, declared) for axis in axes]
    _refuse_twice(checked)
    return checked, _ordered(checked)


def _expanded(
    axes: Sequence[Axis], config: Mapping[str, Any], sample: int, seed: int, declared: Mapping[str, Field]
) -> Iterator[Point]:
    rows: list[Point] = [{}]
    for axis in axes:
        rows = [
            row | dict(zip(axis.fields, values))
            for row in rows
            for values in (_alternatives(axis, sample, seed, declared) if applies(axis, config, row) else ((),))
        ]
    yield from rows


def applies(axis: Axis, config: Mapping[str, Any], row: Point) -> bool:
    """Whether an axis is there where those before it have chosen `row`. Raises UserError where one of them varies a field of it."""
    there = all(
        hashable(row[field] if field in row else configs.get(config, field)) in map(hashable, values)
        for field, values in axis.conditions
    )
    for field in axis.fields if there else ():
        if field in row:
            told = ", ".join(f"{name.rstrip('_')}={shown(value)}" for name, value in row.items())
            raise UserError(
                f"{axis.name}: {field.rstrip('_')} is varied twice where {told}: give conditions that exclude each other"
            )
    return there


def _alternatives(axis: Axis, sample: int, seed: int, declared: Mapping[str, Field]) -> Sequence[tuple[Any, ...]]:
    if not axis.draw:
        return axis.values
    [field] = axis.fields
    number = random.Random(f"{seed} {field} {sample}").random()
    if axis.draw == "choice":
        return [axis.values[int(number * len(axis.values))]]
    (least,), (most,) = axis.values
    whole = type(declared[field].default) is int
    end = most + 1 if whole else most  # a whole number stands for all from it up to the next: the ends too
    if axis.draw == "loguniform":
        drawn = math.exp(math.log(least) + number * (math.log(end) - math.log(least)))
    else:
        drawn = least + number * (end - least)
    drawn = math.floor(drawn) if whole else float(f"{drawn:.4g}")
    return [(min(max(drawn, least), most),)]


def _checked(axis: Axis, declared: Mapping[str, Field]) -> Axis:
    """The axis with its values in the types of its fields. Raises UserError."""
    for field in (*axis.fields, *(field for field, _ in axis.conditions)):
        if field not in declared:
            near = advice(field, list(declared)) or nearest(field, declared)
            raise UserError(f"{axis.name}: {field} is not a setting{near}")
        if field.startswith(HOW) and field in axis.fields and field != "eval.metrics":
            raise UserError(
                f"{axis.name}: {field} says how a run is carried out, not what it computes: all its points would be one run, "
                "which is carried out once"
            )
    if "seed" in axis.fields:
        raise UserError(f"{axis.name}: seeds are repetitions of a point: --seeds=N")
    if not axis.values:
        raise UserError(f"{axis.name}: it has no value: an empty grid")
    for values in axis.values:
        if len(values) != len(axis.fields):
            raise UserError(f"{axis.name}: {shown(values)}: expected {len(axis.fields)} values, one for each field")
    if axis.draw in ("uniform", "loguniform"):
        _check_bounds(axis, declared[axis.fields[0]])
    return dataclasses.replace(
        axis,
        values=tuple(tuple(_value(axis, f, v, declared) for f, v in zip(axis.fields, vs)) for vs in axis.values),
        conditions=tuple((f, tuple(_value(axis, f, v, declared) for v in vs)) for f, vs in axis.conditions),
    )


def _value(axis: Axis, field: str, value: Any, declared: Mapping[str, Field]) -> Any:
    try:
        return declared[field].check(field, value)
    except UserError as e:
        raise UserError(f"{axis.name}: {e}") from None


def _check_bounds(axis: Axis, field: Field) -> None:
    bounds = [value for (value,) in axis.values]
    if type(field.default) not in (int, float):
        raise UserError(f"{axis.name}: {axis.draw} draws numbers, and this is no field of one: choice(A,B,...)")
    numbers = all(isinstance(b, (int, float)) and not isinstance(b, bool) and math.isfinite(b) for b in bounds)
    if len(bounds) != 2 or not numbers or bounds[0] >= bounds[1]:
        raise UserError(
            f"{axis.name}: {axis.draw}({','.join(map(str, bounds))}): expected two numbers, the least before the largest"
        )
    if axis.draw == "loguniform" and bounds[0] <= 0:
        raise UserError(f"{axis.name}: loguniform({bounds[0]},{bounds[1]}): expected numbers above 0")


def _refuse_twice(axes: Sequence[Axis]) -> None:
    seen: dict[str, Axis] = {}
    for axis in axes:
        for field in axis.fields:
            both = seen.get(field)
            if both is axis or (both is not None and not (both.conditions and axis.conditions)):
                raise UserError(f"{axis.name}: {field.rstrip('_')} is varied twice")
            seen[field] = axis


def _ordered(axes: Sequence[Axis]) -> list[Axis]:
    """The axes, each behind those that vary what it asks for. Raises UserError for a cycle."""
    left, done = list(axes), []
    while left:
        waiting = {field for axis in left for field in axis.fields}
        ready = [axis for axis in left if not waiting & {field for field, _ in axis.conditions}]
        if not ready:
            raise UserError(f"{left[0].name}: its condition waits for an axis that waits for this one")
        done += ready
        left = [axis for axis in left if axis not in ready]
    return done


def _spelled(field: str) -> str:
    field = field.strip().removeprefix("config.")
    return "init.from_" if field == "init.from" else field
