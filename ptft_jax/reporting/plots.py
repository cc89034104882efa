"""Plots as SVG text, for reports. No global state: figures are made without pyplot."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

Points = Sequence[tuple[float, float]]


def _axes(width: float, height: float, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def svg(figure: Figure) -> str:
    """The figure as an <svg> element with real text in it, the same bytes for the same data."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ptft", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def curves(
    groups: Mapping[str, Sequence[Points]],
    *,
    title: str,
    x: str,
    y: str,
    level: tuple[str, float] | None = None,
    marks: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Lines of (x, y) points; the lines of a group share a colour and one legend entry.

    Args:
      level: a named horizontal line.
      marks: for each group, points to emphasise (selected checkpoints).
    """
    figure, axes = _axes(7.2, 3.6, title, x, y)
    for (name, lines), colour in zip(groups.items(), COLOURS * 3):
        for i, points in enumerate(lines):
            label = name if i == 0 else None
            axes.plot(*zip(*points), color=colour, label=label, alpha=0.85, linewidth=1.5)
        for point in (marks or {}).get(name, ()):
            axes.plot(*point, "o", color=colour, markersize=5)
    if level is not None:
        axes.axhline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def bars(values: Mapping[str, Sequence[float]], *, title: str, y: str, level: tuple[str, float] | None = None) -> str:
    """One bar a name at the mean of its values, with every value as a dot."""
    figure, axes = _axes(7.2, 3.2, title, "", y)
    names = list(values)
    for i, (name, colour) in enumerate(zip(names, COLOURS * 3)):
        row = list(values[name])
        mean = sum(row) / len(row)
        axes.bar(i, mean, color=colour, alpha=0.55, width=0.65)
        axes.plot([i] * len(row), row, "o", color=colour, markersize=4)
        axes.annotate(f"{mean:.2f}", (i, max(row + [0.0])), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)
    if level is not None:
        axes.axhline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.15)
    return svg(figure)


def scatter(groups: Mapping[str, Points], *, title: str, x: str, y: str) -> str:
    """Points by group."""
    figure, axes = _axes(7.2, 3.6, title, x, y)
    for (name, points), colour in zip(groups.items(), COLOURS * 3):
        axes.plot(*zip(*points), "o", color=colour, label=name, markersize=6, alpha=0.8)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)
