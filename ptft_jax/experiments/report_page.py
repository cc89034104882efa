"""The page of an experiment: what `findings` says, and what it rests on drawn by `ptft_jax.reporting`. Bounded in size, whatever the number of
nodes: what is left out is said."""

from __future__ import annotations

import math
import os
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.experiments import evidence, findings, report, results
from ptft_jax.experiments.ranking import Comparison, Point
from ptft_jax.reporting import comparison, comparison_page, graph_drawing, plots, sweep_plots
from ptft_jax.reporting.page import Page

_ROWS = 100  # of a table
_COMPARED = 8  # comparisons that are drawn
# Points with a curve, with a name in a plane, as lines across axes, with samples.
_LINES, _DOTS, _ACROSS, _COLUMNS = 8, 40, 300, 4


def write(
    out: pathlib.Path,
    question: str,
    command: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    found: Sequence[Comparison],
    folders: evidence.Folders,
    outcomes: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> None:
    """Writes the page; arguments as in `report.write`."""
    page = Page(question or f"Experiment {out.parent.name}", report.counted(rows))
    for note in notes:
        page.text(note)
    costs = evidence.costs(rows, folders)
    several = report.several(found)
    if not several:
        page.text(report.UNCOMPARED)
    for one in several[:_COMPARED]:
        page.heading("Answer" if len(several) == 1 else f"{one.name}: answer")
        page.text(findings.answer(one))
        _table(page, findings.table(one), "experiment.md")
        for caution in findings.cautions(one):
            page.text(caution)
        _drawn(page, one, folders, costs)
    if len(several) > _COMPARED:
        page.text(f"{len(several) - _COMPARED} more comparisons are in experiment.md.")
    alone = [one for one in found if len(one.points) == 1]
    if said := findings.alone(alone):
        page.text(said)
    for one in alone[:_COMPARED] if not several else ():
        _drawn(page, one, folders, costs)
    _ended(page, rows, outcomes)
    page.heading("Graph")
    page.figure(graph_drawing.svg([{**row, "group": row["group"] or row["name"]} for row in rows]))
    if len(rows) > graph_drawing.MOST:
        page.text(f"{len(rows):,} nodes are too many to draw one by one: those with something in common are one box.")
    _costs(page, found, costs, outcomes)
    page.heading("Made with")
    made = evidence.environments(folders)
    if made:
        _table(page, made, "environment.json of each run")
    if len(made) > 1:
        page.text("Not all runs were made with the same, which may show in their figures.")
    title = f"The command that carries it out again, in {os.getcwd()}; what is finished is not run twice:"
    page.sample(title, "", shlex.join(command))
    page.write(
        out,
        f"{results.SUMMARY}.json has every node, {results.TABLE}.csv every point, experiment.md this page's tables.",
    )


def _table(page: Page, rows: Sequence[dict[str, Any]], rest: str) -> None:
    page.table(list(rows[:_ROWS]))
    if len(rows) > _ROWS:
        page.text(f"The first {_ROWS} of {len(rows):,} rows; all are in {rest}.")


def _drawn(page: Page, one: Comparison, folders: evidence.Folders, costs: Mapping[str, Mapping[str, float]]) -> None:
    """Figures of a comparison, of those that there is something for."""
    several = [point for point in one.points if point.values]
    shown = _chosen(one, _LINES)
    if lines := evidence.curves(one, shown, folders):
        page.figure(sweep_plots.bands(lines, title=one.figure, x="step", y=one.figure.rpartition("/")[2]))
        told = ["Means over seeds, and bands of one standard deviation."] if max(map(len, lines.values())) > 1 else []
        if len(one.points) > len(shown):
            told.append(f"The best {len(lines)} of {len(one.points)} ways are drawn.")
        if told:
            page.text(" ".join(told))
    _traded(page, several)
    _paid(page, one, several, costs)
    swept = [point for point in several if point.fields]
    fields = {field for point in swept for field, value in point.fields.items() if value is not None}
    if len(swept) > 1 and fields:
        values = [list(point.values.values()) for point in swept]
        page.figure(sweep_plots.marginals([p.fields for p in swept], values, figure=one.figure))
    if len(fields) > 1 and len(swept) > 2 and one.better:
        kept = swept[:_ACROSS]
        less = one.better == "min"
        page.figure(
            sweep_plots.parallel([p.fields for p in kept], [p.mean for p in kept], figure=one.figure, less=less)
        )
        page.text(
            "A line per point: the darker, the better."
            + (f" The best {_ACROSS} of {len(swept):,} are drawn." if len(swept) > _ACROSS else "")
        )
    texts = evidence.samples(_chosen(one, _COLUMNS), folders)
    if texts:
        page.text(f"Samples of the first seed{f', of the best {_COLUMNS} ways' if len(one.points) > _COLUMNS else ''}:")
        page.table(texts[:_COLUMNS], verbatim=True)


def _chosen(one: Comparison, most: int) -> list[Point]:
    """The best, and the reference."""
    first = list(one.points[:most])
    reference = [] if one.reference is None or one.reference in first else [one.reference]
    return [*first[: most - len(reference)], *reference]


def _traded(page: Page, points: Sequence[Point]) -> None:
    """What was gained against what was forgotten, with the Pareto front."""
    planes = {}
    for point in points:
        figures = [results.metrics(row) for row in point.rows if row["status"] == "finished"]
        both = [(f["forgetting"], f["gain"]) for f in figures if {"forgetting", "gain"} <= f.keys()]
        if both and len(both) == len(figures) and all(map(math.isfinite, (v for pair in both for v in pair))):
            (x, sd_x), (y, sd_y) = (comparison.spread(values) for values in zip(*both))
            planes[point.name] = (x, y, sd_x, sd_y)
    if len(planes) > 1:
        kept = _few(planes)
        best = [name for name, on in zip(kept, comparison.front([p[:2] for p in kept.values()])) if on]
        page.figure(plots.front(kept, best, title="What was gained against what was forgotten", **comparison_page.AXES))
        page.text(comparison_page.FRONT + _left_out(planes, kept))


def _paid(page: Page, one: Comparison, points: Sequence[Point], costs: Mapping[str, Mapping[str, float]]) -> None:
    """The figure against what it cost, where ways cost differently: by operations where all say them, else by time."""
    planes: dict[str, tuple[float, float, float, float]] = {}
    cost, word = (
        ("flops", "operations of the model") if _all(points, costs, "flops") else ("seconds", "seconds per run")
    )
    if not one.better or not _all(points, costs, cost):
        return
    sign = 1 if one.better == "min" else -1
    for point in points:
        paid = statistics.mean(
            costs[row["name"]][cost] for row in point.rows if row["name"] in costs and cost in costs[row["name"]]
        )
        planes[point.name] = (paid, point.mean, 0.0, point.spread or 0.0)
    if len(planes) < 2 or len({place[0] for place in planes.values()}) < 2:
        return
    kept = _few(planes)
    best = [name for name, on in zip(kept, comparison.front([(x, -sign * y) for x, y, *_ in kept.values()])) if on]
    page.figure(plots.front(kept, best, title=f"{one.figure} against cost", x=word, y=one.figure, less=sign > 0))
    page.text(
        f"To the left is cheaper, {'down' if sign > 0 else 'up'} is better. Bars are standard deviations over seeds."
        + _left_out(planes, kept)
    )


def _all(points: Sequence[Point], costs: Mapping[str, Mapping[str, float]], cost: str) -> bool:
    """Whether every point has a run that says its cost."""
    return all(any(cost in costs.get(row["name"], {}) for row in point.rows) for point in points)


def _few(planes: Mapping[str, tuple[float, float, float, float]]) -> dict[str, tuple[float, float, float, float]]:
    """The first points: best first, as names of more could not be read."""
    return dict(list(planes.items())[:_DOTS])


def _left_out(planes: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    return f" The best {len(kept)} of {len(planes):,} ways are drawn." if len(kept) < len(planes) else ""


def _ended(page: Page, rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Mapping[str, Any]]) -> None:
    lost = [
        {"node": row["name"], "status": row["status"], "why": outcomes[row["name"]]["message"] or "-"}
        for row in rows
        if row["status"] != "finished"
    ]
    if lost:
        page.heading("What did not finish")
        page.table(lost[:_ROWS], prose=True)
        if len(lost) > _ROWS:
            page.text(f"The first {_ROWS} of {len(lost):,}; state.json has all.")


def _costs(
    page: Page,
    found: Sequence[Comparison],
    costs: Mapping[str, Mapping[str, float]],
    outcomes: Mapping[str, Mapping[str, Any]],
) -> None:
    page.heading("Cost")
    total = {name: sum(one.get(name, 0.0) for one in costs.values()) for name in ("seconds", "steps", "tokens")}
    ran = sum(outcome["seconds"] for outcome in outcomes.values())
    page.text(
        f"{len(costs):,} runs took {total['seconds']:,.0f} s, {total['steps']:,.0f} steps and {total['tokens']:,.0f} tokens. "
        f"The last launch spent {ran:,.0f} s on nodes; what was there already is not carried out again."
    )
    rows = [row for one in found[:_COMPARED] for row in evidence.cost_rows(one.points, costs)]
    if rows:
        _table(page, rows, "summary.json of each run")
