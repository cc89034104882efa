"""Plots of sweeps as SVG text: curves with bands over seeds, a figure against each axis, and points as lines across all axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting import plots
from ptft_jax.reporting.plots import Points

_LOG = 10.0  # the largest of an axis over its least, from which on it is logarithmic
_NAMES = 12  # letters of a name on an axis


def bands(groups: Mapping[str, Sequence[Points]], *, title: str, x: str, y: str) -> str:
    """Per group the mean of its lines of (x, y) points, and a band of one standard deviation, where all of them have a point; of one line
    itself."""
    figure, axes = plots.framed(7.2, 3.6, title, x, y)
    colors = plots.palette(groups)
    for place, (name, lines) in enumerate(groups.items()):
        at = [dict(points) for points in lines]
        steps = [step for step in sorted(at[0]) if all(step in one for one in at)]
        values = [[one[step] for one in at] for step in steps]
        means = [statistics.mean(row) for row in values]
        dashes = ("-", "--", ":")[place // len(plots.COLORS) % 3]
        label = f"{name} ({len(lines)} seeds)" if len(lines) > 1 else f"{name} (one seed)"
        axes.plot(steps, means, dashes, color=colors[name], label=label, linewidth=1.6)
        if len(lines) > 1:
            half = [statistics.stdev(row) for row in values]
            low, high = ([m + sign * h for m, h in zip(means, half)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=colors[name], alpha=0.18, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return plots.svg(figure)


def marginals(points: Sequence[Mapping[str, Any]], values: Sequence[Sequence[float]], *, figure: str) -> str:
    """The figure against each axis: a dot per node, whatever the other axes have.

    Args:
      points: what the axes have, field -> value; one that a point lacks is not drawn there.
      values: of each point, a value per seed.
    """
    from matplotlib.figure import Figure

    fields = _fields(points)
    columns = min(len(fields), 3)
    rows = -(-len(fields) // columns)
    drawn = Figure(figsize=(0.6 + 3.0 * columns, 0.4 + 2.5 * rows), layout="constrained")
    cells = drawn.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for cell, field in zip(cells, fields):
        there = [(point[field], row) for point, row in zip(points, values) if point.get(field) is not None]
        across, ticks, log = _axis([value for value, _ in there])
        dots = [(at, value) for at, (_, row) in zip(across, there) for value in row]
        cell.plot(*zip(*dots), "o", color=plots.COLORS[0], alpha=0.45, markersize=4)
        places = sorted(set(across))
        if len(places) < len(across):
            middles = [
                statistics.mean(v for at, (_, row) in zip(across, there) if at == place for v in row)
                for place in places
            ]
            cell.plot(places, middles, "-", color=plots.COLORS[1], linewidth=1.4)
        if ticks:
            cell.set_xticks(range(len(ticks)), [tick[:_NAMES] for tick in ticks], rotation=30, fontsize=8)
        cell.set_xscale("log" if log else "linear")
        cell.set_xlabel(field, fontsize=9)
        cell.grid(alpha=0.25)
        cell.spines[["top", "right"]].set_visible(False)
    for cell in cells[len(fields) :]:
        cell.set_visible(False)
    cells[0].set_ylabel(figure)
    return plots.svg(drawn)


def parallel(points: Sequence[Mapping[str, Any]], values: Sequence[float], *, figure: str, less: bool) -> str:
    """A line per point across its axes and the figure, the better the darker; an axis that a point lacks breaks its line.

    Args:
      less: whether less of the figure is better.
    """
    from matplotlib import colormaps

    fields = _fields(points)
    drawn, axes = plots.framed(8.6, 4.0, "Every point across its axes", "", "")
    names = [*fields, figure]
    heights = []
    for place, name in enumerate(names):
        column = [point.get(name) for point in points] if name != figure else list(values)
        there = [value for value in column if value is not None]
        across, ticks, log = _axis(there)
        scaled = [math.log(at) for at in across] if log else list(map(float, across))
        low, high = min(scaled), max(scaled)
        shares = iter([(at - low) / (high - low) if high > low else 0.5 for at in scaled])
        heights.append([next(shares) if value is not None else math.nan for value in column])
        ends = (ticks[0], ticks[-1]) if ticks else (f"{min(there):g}"[:9], f"{max(there):.4g}")
        axes.axvline(place, color="#999999", linewidth=0.9)
        for at, end in zip((-0.05, 1.05), ends):
            axes.text(place, at, end[:_NAMES], ha="center", va="center", fontsize=8)
    quality = [1 - height for height in heights[-1]] if less else heights[-1]
    shades = colormaps["viridis_r"]
    for number in sorted(range(len(points)), key=lambda number: quality[number]):
        line = [column[number] for column in heights]
        best = quality[number] == max(quality)
        axes.plot(
            range(len(names)),
            line,
            "-",
            color=shades(0.1 + 0.9 * quality[number]),
            alpha=0.75,
            linewidth=2.4 if best else 1.1,
        )
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=15 if len(names) > 4 else 0)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return plots.svg(drawn)


def _fields(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that a point has a value of."""
    return list(dict.fromkeys(field for point in points for field, value in point.items() if value is not None))


def _axis(values: Sequence[Any]) -> tuple[list[float], list[str], bool]:
    """(where each value stands, names of the places where they are no numbers, whether it is logarithmic)."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        return list(values), [], low > 0 and high / low >= _LOG * (1 - 1e-9)
    names = list(dict.fromkeys(map(str, values)))
    return [float(names.index(str(value))) for value in values], names, False
