"""Plots as SVG text, for reports. No global state: figures are made without pyplot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptft_jax import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Now, not when the first plot is drawn: what is to be drawn may take hours.
matplotlib = environment.needed("matplotlib", "a report's plots")

# Okabe & Ito's colors, which color-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# More of them, where parts are many: Tol's muted ones.
_MORE_COLORS = ("#882255", "#44AA99", "#999933", "#777777")

Points = Sequence[tuple[float, float]]


def framed(width: float, height: float, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """An empty plot of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


class Drawn(str):
    """An <svg> element that can also be had as other files."""

    figure: Figure

    @property
    def title(self) -> str:
        return next((axes.get_title(loc="left") for axes in self.figure.axes if axes.get_title(loc="left")), "")

    def file(self, kind: str) -> bytes:
        """What a file of a kind, "svg" or "png", has in it: the same bytes for the same data."""
        if kind == "svg":
            return f'<?xml version="1.0" encoding="utf-8"?>\n{self}'.encode()
        out = io.BytesIO()
        with matplotlib.rc_context({"font.family": "sans-serif"}):
            self.figure.savefig(out, format=kind, dpi=200, metadata={"Software": None})
        return out.getvalue()


def svg(figure: Figure) -> Drawn:
    """The figure as an <svg> element with real text in it, the same bytes for the same data."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ptft", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    drawn = Drawn(text[text.index("<svg") :])
    drawn.figure = figure
    return drawn


def logarithmic(axes: Any) -> None:
    """Makes both axes of drawn points logarithmic, the upright one with plain numbers where it is less than a decade, of which powers say
    little."""
    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")


def curves(
    groups: Mapping[str, Sequence[Points]],
    *,
    title: str,
    x: str,
    y: str,
    level: tuple[str, float] | None = None,
    marks: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    colors: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    log: bool = False,
) -> str:
    """Lines of (x, y) points; the lines of a group share a color and one legend entry.

    Args:
      log: on logarithmic axes, with a dot at each point.
      labels: of each group in the legend, where that is not its name.
      level: a named horizontal line.
      marks: for each group, points to emphasize (selected checkpoints).
      colors: of each group, where several figures show the same ones; see `palette`.
    """
    figure, axes = framed(7.2, 3.6, title, x, y)
    colors = colors or palette(groups)
    for name, lines in groups.items():
        color = colors[name]
        for i, points in enumerate(lines):
            label = (labels or {}).get(name, name) if i == 0 else None
            axes.plot(
                *zip(*points), "o-" if log else "-", color=color, label=label, alpha=0.85, linewidth=1.5, markersize=4
            )
        for point in (marks or {}).get(name, ()):
            axes.plot(*point, "o", color=color, markersize=5)
    if level is not None:
        axes.axhline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
    if log:
        logarithmic(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def dots(
    values: Mapping[str, Sequence[float]],
    *,
    title: str,
    x: str,
    level: tuple[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
) -> str:
    """One row a name: every value as a small dot, their mean as a bar with its number; a named vertical line."""
    figure, axes = framed(7.2, 0.9 + 0.42 * len(values), title, x, "")
    colors = colors or palette(values)
    for i, (name, row) in enumerate(values.items()):
        mean = sum(row) / len(row)
        axes.plot(row, [i] * len(row), "o", color=colors[name], markersize=5, alpha=0.7)
        axes.plot([mean], [i], "|", color=colors[name], markersize=18, markeredgewidth=2)
        axes.annotate(f"{mean:.3f}", (mean, i), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    if level is not None:
        axes.axvline(level[1], color="#555555", linestyle="--", linewidth=1, label=level[0])
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.7)
    axes.margins(x=0.1)
    return svg(figure)


def scatter(
    groups: Mapping[str, Points], *, title: str, x: str, y: str, colors: Mapping[str, str] | None = None
) -> str:
    """Points by group."""
    figure, axes = framed(7.2, 3.6, title, x, y)
    colors = colors or palette(groups)
    for name, points in groups.items():
        axes.plot(*zip(*points), "o", color=colors[name], label=name, markersize=6, alpha=0.8)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def front(
    points: Mapping[str, tuple[float, float, float, float]],
    best: Iterable[str],
    *,
    title: str,
    x: str,
    y: str,
    less: bool = False,
) -> str:
    """Named points (x, y, sd of x, sd of y), small x and large y being good, with `less` small y; a staircase through the `best`, which
    none beats in both."""
    figure, axes = framed(8.6, 5.2, title, x, y)
    best = set(best)
    stairs = sorted(points[name][:2] for name in best)
    for name, (across, up, spread_x, spread_y) in points.items():
        color = COLORS[0] if name in best else "#8a8a8a"
        axes.errorbar(
            across, up, xerr=spread_x or None, yerr=spread_y or None, fmt="o", color=color, markersize=6,
            elinewidth=1, capsize=2, alpha=0.9, zorder=3,
        )  # fmt: skip
    axes.margins(x=0.12, y=0.12)
    axes.autoscale_view()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    worst, good = (top, bottom) if less else (bottom, top)
    across, up = zip((stairs[0][0], worst), *stairs, (right, stairs[-1][1]))
    axes.step(across, up, where="post", color=COLORS[0], linewidth=1.4, alpha=0.7, label="Pareto front", zorder=2)
    axes.fill_between((left, *across), (worst, *up), good, step="post", color=COLORS[0], alpha=0.05, linewidth=0)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    for level, line in ((0, axes.axvline), (0, axes.axhline)):
        line(level, color="#999999", linewidth=0.8, zorder=1)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    _label(axes, {name: point[:2] for name, point in points.items()})
    axes.legend(fontsize=8, frameon=False, loc="upper right" if less else "lower right")
    return svg(figure)


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside points, each at the nearest place within the axes where it lies on no point and no other name."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    at = {name: ((x - left) / (right - left), (y - bottom) / (top - bottom)) for name, (x, y) in points.items()}
    # Boxes as (start, end, middle, distance that the middle of a name keeps), in shares of the axes.
    taken = [(x - 0.008, x + 0.008, y, 0.03) for x, y in at.values()]
    for name, (x, y) in sorted(at.items(), key=lambda item: item[1][1]):
        width = 0.009 * len(name)
        above = 0.028  # off the horizontal line through the point
        sides = ((0.012, 0.0), (-0.012 - width, 0.02))  # the right one first
        heights = [step / 100 for step in range(-60, 61)]
        places = [(abs(dy - above) + cost, x + dx, y + dy) for dx, cost in sides for dy in heights]
        inside = [(far, s, m) for far, s, m in places if s >= 0 and s + width <= 1 and 0.03 <= m <= 0.97]
        free = [
            place
            for place in inside
            if not any(place[1] < e and s < place[1] + width and abs(place[2] - m) < gap for s, e, m, gap in taken)
        ]
        far, start, middle = min(free or inside or places)
        taken.append((start, start + width, middle, 0.045))
        axes.annotate(
            name,
            points[name],
            xytext=(start, middle) if start > x else (start + width, middle),
            textcoords="axes fraction",
            ha="left" if start > x else "right",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.7} if far > 0.04 else None,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.6},
        )


def bars(
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    x: str,
    y: str,
    colors: Mapping[str, str] | None = None,
) -> str:
    """Bars {group: {place: value}}, side by side at each place; places in the order of their first appearance."""
    colors = colors or palette(groups)
    figure, axes = framed(8.6, 3.4, title, x, y)
    places = list(dict.fromkeys(place for row in groups.values() for place in row))
    width = 0.8 / max(len(groups), 1)
    for i, (name, color) in enumerate((name, colors[name]) for name in groups):
        at = [places.index(place) + (i - (len(groups) - 1) / 2) * width for place in groups[name]]
        axes.bar(at, list(groups[name].values()), 0.92 * width, color=color, label=name)
    axes.set_xticks(range(len(places)), places, rotation=45 if len(places) > 10 else 0, fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def stacked(rows: Mapping[str, Mapping[str, float]], *, title: str, x: str) -> str:
    """A bar per row, of its parts one after the other; parts in the order of their first appearance, of a color each. What is at
    least a twelfth of the longest bar has its number in it."""
    from matplotlib.colors import to_rgb

    figure, axes = framed(8.6, 1.3 + 0.5 * len(rows), title, x, "")
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    colors = [*COLORS[:-1], *_MORE_COLORS]
    longest = max(sum(row.values()) for row in rows.values())
    for number, part in enumerate(parts):
        lengths = [row.get(part, 0.0) for row in rows.values()]
        if not any(lengths):
            continue
        before = [sum(row.get(other, 0.0) for other in parts[:number]) for row in rows.values()]
        color = colors[number % len(colors)]
        axes.barh(range(len(rows)), lengths, 0.7, left=before, color=color, label=part)
        for at, (start, length) in enumerate(zip(before, lengths)):
            if length >= longest / 12:
                middle = start + length / 2
                dark = (
                    sum(weight * c for weight, c in zip((0.299, 0.587, 0.114), to_rgb(color))) < 0.5
                )  # as eyes see it
                shade = "white" if dark else "black"
                axes.text(middle, at, f"{length:,.1f}", ha="center", va="center", fontsize=8, color=shade)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg(figure)


def heat(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    less_is_better: bool = False,
) -> str:
    """A matrix with its numbers in cells; in each column the best is brightest and the worst darkest."""
    figure, axes = framed(2.6 + 1.3 * len(columns), 1.3 + 0.5 * len(rows), title, "measured on", "")
    axes.grid(False)
    shades = []
    for column in zip(*values):
        low, high = min(column), max(column)
        shares = [(v - low) / (high - low) if high > low else 0.5 for v in column]
        shades.append([1 - share if less_is_better else share for share in shares])
    shades = list(zip(*shades))
    axes.imshow(shades, cmap="viridis", aspect="auto", vmin=-0.15, vmax=1.05)
    _cells(axes, [[f"{v:.3f}" for v in row] for row in values], [[s < 0.6 for s in row] for row in shades], 9)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    return svg(figure)


def confusion(table: Mapping[str, Any], *, title: str) -> str:
    """How often each class was named (`ptft_jax.objectives.counts.shown`): a row for each that there is, a column for each that was named; shades are
    shares of the row."""
    classes, counts = table["classes"], table["counts"]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    side = 1.6 + 0.42 * len(classes)
    figure, axes = framed(side + 0.6, side, title, "named", "is")
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _cells(
        axes, [[f"{n:,}" if n else "" for n in row] for row in counts], [[s > 0.5 for s in row] for row in shares], 8
    )
    axes.set_xticks(range(len(classes)), classes, rotation=45 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(range(len(classes)), classes)
    return svg(figure)


def _cells(axes: Any, said: Sequence[Sequence[str]], dark: Sequence[Sequence[bool]], size: int) -> None:
    """A text in the middle of each cell of a matrix that was drawn, light where the cell is dark."""
    for i, row in enumerate(said):
        for j, text in enumerate(row):
            color = "white" if dark[i][j] else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color)


def palette(names: Iterable[str]) -> dict[str, str]:
    """A color for each name, in order, starting over after the last."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
