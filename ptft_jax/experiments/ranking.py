"""What nodes of a graph can be compared, and what their figures say: the best, how far others are from it over equal seeds, and how sure
that is."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.config.behaviors import BEHAVIOR
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation import names
from ptft_jax.experiments import results, seed_differences
from ptft_jax.experiments.nodes import end
from ptft_jax.experiments.seed_differences import Difference

Row = Mapping[str, Any]  # of `results.collect`, with "settings" of the node's identity
SURE = 0.05  # a difference is shown where its corrected p-value is below
_SEED = re.compile(r"[-_.]?seed(\d+)(?=[-_.]|$)")  # in names of nodes that no sweep made
_FIGURES = ("nll", "loss", "mse", "accuracy")  # of evaluations, the first that there is
_LESS, _MORE = ("forgetting", "perplexity", "bits_per_byte", "error"), ("gain", "reward")
# What runs that no sweep made have in common where they are compared.
_MEASURED_ON = ("data.source", "data.mixture", "data.held_out", "eval.source", "objective.name", "select.metric")


@dataclasses.dataclass(frozen=True)
class Point:
    """Nodes that differ in nothing but the seed.

    Attributes:
      fields: what axes gave it.
      rows: its nodes.
      values: seed -> its figure, of finished nodes that have it and where it is finite.
    """

    name: str
    fields: Mapping[str, Any]
    rows: tuple[Row, ...]
    values: Mapping[Any, float]

    @property
    def whole(self) -> bool:
        """Whether every one of its nodes came to the figure."""
        return len(self.values) == len(self.rows)

    @property
    def mean(self) -> float:
        return statistics.mean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def lost(self) -> dict[str, int]:
        """Status -> how many nodes, of those without the figure."""
        seeds = set(self.values)
        there = [row["status"] for row in self.rows if seed_of(row) not in seeds]
        return dict(collections.Counter("no figure" if status == "finished" else status for status in there))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Points side by side.

    Attributes:
      figure: by which; "" where nobody came to one.
      better: "min", "max", or "" where that is not known.
      points: those that came to the figure with every seed, the best first, then the others.
      reference: what all are compared with: the named baseline, else the best; None where there is none.
      is_baseline: whether it was named.
      differences: name of a point -> how much better the reference is, over the seeds that both have.
      corrected: name of a point -> its p-value, corrected for all of `differences` that have one.
    """

    name: str
    figure: str
    better: str
    points: tuple[Point, ...]
    reference: Point | None = None
    is_baseline: bool = False
    differences: Mapping[str, Difference] = dataclasses.field(default_factory=dict)
    corrected: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def ranked(self) -> list[Point]:
        """Points that can be the best, it first: those with all of their seeds, where there are such."""
        return _ranked(self.points, self.better)


def compare(rows: Sequence[Row], *, figure: str = "", better: str = "", baseline: str = "") -> list[Comparison]:
    """All comparisons: of each sweep, and of other nodes of one kind that were measured on the same.

    Args:
      figure: by which they are compared; "" = what runs were selected by, and of evaluations their loss, or what is measured of behavior.
      better: "min" or "max", of a figure that does not say it.
      baseline: a point that all others of its comparison are compared with; "" = the best.

    Raises:
      UserError: no point has the name of the baseline.
    """
    cohorts: dict[Any, list[Row]] = {}
    for row in rows:
        cohorts.setdefault(_cohort(row), []).append(row)
    base = baseline_of(rows, baseline) if baseline else []
    made = []
    for members in cohorts.values():
        with_base = [*members, *(row for row in base if row not in members and row["kind"] == members[0]["kind"])]
        made.append(_comparison(members, with_base, figure, better, base))
    return [one for one in made if one.figure or (len(one.points) > 1 and one.points[0].rows[0]["kind"] != "merge")]


def baseline_of(rows: Sequence[Row], name: str) -> list[Row]:
    """The nodes of the point that is named, by itself or by one of its nodes. Raises UserError."""
    points: dict[Any, list[Row]] = {}
    fields = _fields(rows)
    for row in rows:
        points.setdefault((_cohort(row), point_name(row, fields)), []).append(row)
    called = [same for (_, point), same in points.items() if point == name or any(row["name"] == name for row in same)]
    if not called:
        near = nearest(name, dict.fromkeys([*(point for _, point in points), *(row["name"] for row in rows)]))
        raise UserError(f"baseline = {name!r}: no point or node of the graph has this name{near}")
    if len(called) > 1:
        raise UserError(
            f"baseline = {name!r}: {len(called)} points have this name: name a node, such as {called[0][0]['name']}"
        )
    return called[0]


def seed_of(row: Row) -> Any:
    """What tells a node from others of its point."""
    found = _SEED.search(row["name"])
    return row["seed"] if row["point"] or row["seed"] is not None or not found else int(found[1])


def point_name(row: Row, fields: Sequence[str]) -> str:
    """What nodes that differ in nothing but the seed have in common; `fields`: all that are varied, as ends of names tell them apart."""
    if row["point"]:
        ends = {field: end(field, [other for other in fields if other != field]) for field in row["point"]}
        return ", ".join(f"{ends[field]}={_shown(value)}" for field, value in row["point"].items())
    return _SEED.sub("", row["name"]) or row["name"] if row["group"] == row["name"] else row["group"]


def _fields(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(field for row in rows for field in row["point"]))


def _cohort(row: Row) -> Any:
    """What rows that are compared have in common."""
    if row["point"] and row["group"] != row["name"]:  # without points, a group is the seeds of one way
        return row["group"]
    settings = row.get("settings", {})
    if row["kind"] == "evaluation":
        asked = {name: value for name, value in settings.items() if name not in ("of", "plugins")}
    else:
        asked = {name: settings.get(name) for name in (*_MEASURED_ON, "function")}
    return json.dumps([row["kind"], asked], sort_keys=True)


def _name(first: Row) -> str:
    """What a comparison is of, by the first of its rows: a sweep, or nodes that were measured on the same."""
    if first["group"] == first["name"]:
        return first["kind"]
    return first["group"] if first["point"] else first.get("settings", {}).get("data.source") or first["kind"]


def _comparison(
    members: Sequence[Row], rows: Sequence[Row], figure: str, better: str, base: Sequence[Row]
) -> Comparison:
    """`rows`: the members, and those of a baseline from elsewhere."""
    figures = {row["name"]: results.metrics(row) for row in rows}
    known = dict.fromkeys(name for found in figures.values() for name in found)
    chosen = figure if figure in known else _chosen(rows, known)
    direction = (better if figure in known else "") or _direction(rows, chosen)
    together: dict[str, list[Row]] = {}
    fields = _fields(rows)
    for number, row in enumerate(rows):
        foreign = number >= len(members) and row["point"]  # which may be called as one of the members
        name = point_name(row, fields)
        together.setdefault(f"{row['group']}: {name}" if foreign else name, []).append(row)
    made = []
    for name, several in together.items():
        once = {(row.get("fingerprint") or row["name"], seed_of(row)): row for row in reversed(several)}
        same = list(once.values())[::-1]  # a point that is there twice is carried out once
        finished = {seed_of(row): figures[row["name"]].get(chosen) for row in same if row["status"] == "finished"}
        values = {seed: value for seed, value in finished.items() if value is not None and math.isfinite(value)}
        made.append(Point(name, same[0]["point"], tuple(same), values))
    ranked = _ranked(made, direction)
    order = {point.name: place for place, point in enumerate(ranked)}
    points = tuple(sorted(made, key=lambda point: order.get(point.name, len(order))))
    found = Comparison(_name(members[0]), chosen, direction, points)
    named = next((point for point in points if base and base[0] in point.rows), None)
    reference = named or (ranked[0] if ranked and direction else None)
    if reference is None or not reference.values:
        return found
    differences = _differences(reference, points, -1 if direction == "max" else 1)
    tested = [name for name, one in differences.items() if one.p is not None]
    corrected = seed_differences.holm([differences[name].p or 0.0 for name in tested])
    return dataclasses.replace(
        found,
        reference=reference,
        is_baseline=named is not None,
        differences=differences,
        corrected=dict(zip(tested, corrected)),
    )


def _ranked(points: Sequence[Point], better: str) -> list[Point]:
    there = [point for point in points if point.whole] or [point for point in points if point.values]
    return sorted(there, key=lambda point: -point.mean if better == "max" else point.mean) if better else there


def _differences(reference: Point, points: Sequence[Point], sign: int) -> dict[str, Difference]:
    """Of all points that share seeds with the reference: sign * (theirs - its), so that more than 0 says that it is the better one."""
    found = {}
    for point in points:
        seeds = [seed for seed in reference.values if seed in point.values]
        if point.name != reference.name and seeds:
            found[point.name] = seed_differences.difference(
                [sign * (point.values[seed] - reference.values[seed]) for seed in seeds]
            )
    return found


def _chosen(rows: Sequence[Row], known: Mapping[str, Any]) -> str:
    """The figure that most of the rows were selected by, else the first of the usual ones, else the only one, else the first of what
    was measured of behavior that says which values are better."""
    selected = [_selected(row) for row in rows]
    counts = collections.Counter(name for name in selected if name in known)
    if counts:
        return counts.most_common(1)[0][0]
    usual = next((name for name in _FIGURES if name in known), next(iter(known)) if len(known) == 1 else "")
    return usual or next((name for name in known if name.startswith(BEHAVIOR) and names.known(name)), "")


def _direction(rows: Sequence[Row], figure: str) -> str:
    """ "min" or "max"; "" where nothing says it."""
    modes = {row.get("settings", {}).get("select.mode") for row in rows if row["kind"] == "run"} - {None, names.AUTO}
    if figure in map(_selected, rows) and len(modes) == 1:
        return modes.pop()
    name = figure.rpartition("/")[2]
    return names.known(figure) or ("min" if name in _LESS else "max" if name in _MORE else "")


def _selected(row: Row) -> str:
    """What a run was selected by; "" of others."""
    result = row.get("result")
    return result["selected"]["metric"] if row["kind"] == "run" and result else ""


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
