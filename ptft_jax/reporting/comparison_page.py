"""The page of `ptft compare`: gain against forgetting with the Pareto front, cost, drift by layer; the matrix of a sequence."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting import comparison, plots, settings
from ptft_jax.reporting.comparison import Group
from ptft_jax.reporting.page import Page
from ptft_jax.runs.files import write_json
from ptft_jax.runs.lineage import place

AXES = {
    "x": "forgetting: source loss after minus before (nats)",
    "y": "gain: target loss before minus after (nats)",
}
FRONT = "Up and to the left is better. Bars are standard deviations over seeds."  # of what `front` draws
_FOOTER = "Every figure is in {} beside this file."


def write(groups: Sequence[Group], out: pathlib.Path, kinds: Sequence[str] = ()) -> None:
    """Writes the page of compared runs, and their figures as JSON beside it; `kinds` of files of its plots, as of `Page.write`."""
    figures = out.with_suffix(".json")
    write_json(
        figures,
        [
            {
                "name": g.name,
                "method": g.method,
                "differs": dict(g.differs),
                "runs": [run.reference for run in g.runs],
                "seeds": [run.config["seed"] for run in g.runs],
                "figures": {key: {"mean": mean, "sd": sd} for key, (mean, sd) in g.figures.items()},
                "drift": g.drift,
                "best": g.best,
            }
            for g in groups
        ],
    )
    run = groups[0].runs[0]
    parent = run.lineage[0]
    page = Page(
        "Fine-tuning, compared",
        f"{len(groups)} ways to specialize {place(parent)} on {run.config['data']['source']}.",
    )
    if figure := front(groups, "What was gained against what was forgotten"):
        page.heading("Gain and forgetting")
        page.figure(figure)
        page.text(FRONT)
    else:
        page.text("No front: forgetting was not measured (config.eval.source names what to measure it on).")
    if lines := {g.name: [[(forgot, gain) for gain, forgot in path] for path in g.paths] for g in groups if g.paths}:
        page.heading("On the way")
        page.figure(plots.curves(lines, title="Gain against forgetting, from evaluation to evaluation", **AXES))
        page.text(
            "Runs that end at different gains are compared where they had gained the same: who is higher has forgotten less for it."
        )
    settings.show(page, {g.name: g.differs for g in groups})
    page.heading("Gain and cost")
    page.table(comparison.table(groups, differing=False))
    page.text(comparison.meanings(groups))
    drift = {g.name: {part: 100 * value for part, value in g.drift.items()} for g in groups if g.drift}
    if drift:
        page.heading("Drift")
        page.figure(
            plots.bars(drift, title="Distance from the start", x="part of the model", y="% of the start's norm")
        )
    page.write(out, footer=_FOOTER.format(figures.name), figures=kinds)


def front(groups: Sequence[Group], title: str) -> str:
    """Gain against forgetting, with the Pareto front of these groups, as SVG; "" where no group has both."""
    both = {
        g.name: (g.figures["forgetting"], g.figures["gain"])
        for g in groups
        if {"forgetting", "gain"} <= g.figures.keys()
    }
    if not both:
        return ""
    points = {name: (x, y, spread_x, spread_y) for name, ((x, spread_x), (y, spread_y)) in both.items()}
    on_front = comparison.front([(x, y) for x, y, *_ in points.values()])
    return plots.front(points, itertools.compress(points, on_front), title=title, **AXES)


def write_sequence(found: Mapping[str, Any], out: pathlib.Path, kinds: Sequence[str] = ()) -> None:
    """Writes the page of a sequence of tasks (`ptft_jax.evaluation.sequence.measure`), and its figures as JSON beside it; `kinds` as of
    `write`."""
    figures = out.with_suffix(".json")
    write_json(figures, found)
    page = Page("A sequence of tasks", " → ".join(found["stages"]))
    page.heading("Every stage on every task's test split")
    for name, title in (("accuracy", "Accuracy"), ("nll", "Loss (nats per token)")):
        less = name == "nll"
        names = found["stages"], found["tasks"]
        page.figure(plots.heat(found[name]["matrix"], *names, title=title, less_is_better=less))
    page.text("Colors are by column: the stage that is best at a task is the brightest.")
    page.heading("Transfer")
    page.table(sequence_table(found))
    page.text(
        "Average: over all tasks, after the last. Backward transfer: of the tasks before the last, after the last stage against "
        "just after each was learned; below 0 is forgetting. Forward transfer: of the tasks after the first, just before each "
        "was learned against before the sequence. (Lopez-Paz & Ranzato 2017, equations 2 to 4.) Transfer of the loss has the "
        "sign turned, so that more is better for both."
    )
    page.write(out, footer=_FOOTER.format(figures.name), figures=kinds)


def sequence_table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The summary figures of a sequence, a row for accuracy and one for the loss."""
    rows = []
    for name in ("accuracy", "nll"):
        scores = found[name]["scores"]
        row = {"": name, "average": f"{scores['average']:.4f}"}
        for key in ("backward", "forward"):
            row[f"{key} transfer"] = "-" if scores[key] is None else f"{scores[key]:+.4f}"
        rows.append(row)
    return rows
