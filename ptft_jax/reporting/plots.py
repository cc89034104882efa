"""Plots as SVG text, for reports. No global state: figures are made without pyplot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

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
    colours: Mapping[str, str] | None = None,
) -> str:
    """Lines of (x, y) points; the lines of a group share a colour and one legend entry.

    Args:
      level: a named horizontal line.
      marks: for each group, points to emphasise (selected checkpoints).
      colours: of each group, where several figures show the same ones; see `palette`.
    """
    figure, axes = _axes(7.2, 3.6, title, x, y)
    colours = colours or palette(groups)
    for name, lines in groups.items():
        colour = colours[name]
        for i, points in enumerate(lines):
            label = name if i == 0 else None
            axes.plot(*zip(*points), color=colour, label=label, alpha=0.85, linewidth=1.5)
        for point in (marks or {}).get(name, ()):
            axes.plot(*point, "o", color=colour, markersize=5)
    if level is not None:
        axes.axhline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def dots(
    values: Mapping[str, Sequence[float]],
    *,
    title: str,
    x: str,
    level: tuple[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
) -> str:
    """One row a name: every value as a small dot, their mean as a bar with its number; a named vertical line."""
    figure, axes = _axes(7.2, 0.9 + 0.42 * len(values), title, x, "")
    colours = colours or palette(values)
    for i, (name, row) in enumerate(values.items()):
        mean = sum(row) / len(row)
        axes.plot(row, [i] * len(row), "o", color=colours[name], markersize=5, alpha=0.7)
        axes.plot([mean], [i], "|", color=colours[name], markersize=18, markeredgewidth=2)
        axes.annotate(f"{mean:.3f}", (mean, i), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    if level is not None:
        axes.axvline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.7)
    axes.margins(x=0.1)
    return svg(figure)


def scatter(
    groups: Mapping[str, Points], *, title: str, x: str, y: str, colours: Mapping[str, str] | None = None
) -> str:
    """Points by group."""
    figure, axes = _axes(7.2, 3.6, title, x, y)
    colours = colours or palette(groups)
    for name, points in groups.items():
        axes.plot(*zip(*points), "o", color=colours[name], label=name, markersize=6, alpha=0.8)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in order, starting over after the last."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
