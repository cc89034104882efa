"""The page of `ptft behavior`: measures of runs side by side, with their pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.reporting import plots
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.side_by_side import table
from ptft_jax.runs.files import write_json

_DIAGONAL = {"as it says": [[(0.0, 0.0), (1.0, 1.0)]]}


def write(found: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes the page, and its figures as JSON beside it. `found`: what `ptft_jax.evaluation.before_after.compare` returns."""
    figures = out.with_suffix(".json")
    write_json(figures, found)
    runs = found["runs"]
    page = Page("Behavior", f"{len(runs)} {'runs' if len(runs) > 1 else 'run'} on {found['data']} ({found['split']}).")
    page.table(table(runs))
    for task, asked in found["asked"].items():
        page.heading(task)
        page.text(f"{asked:,} questions.")
        page.table(table([{**run, "values": _of(run["values"], task)} for run in runs]))
        draw = _PICTURES.get(task)
        if draw is not None:
            draw(page, {run["run"]: run["details"][task] for run in runs})
    page.write(
        out, footer=f"Every figure is in {figures.name} beside this file; docs/behavior.md says what each means."
    )


def _of(values: Mapping[str, float], task: str) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.split("/")[1] == task}


def _marks(lines: Mapping[str, Any]) -> dict[str, Any]:
    """A dot for each point, which a line of one point needs to be seen."""
    return {run: points for run, [points] in lines.items()}


def _calibration(page: Page, details: Mapping[str, Any]) -> None:
    for name, title in (("equal_width", "bins of equal width"), ("equal_mass", "bins of equal mass")):
        lines = {run: [[(one["sure"], one["right"]) for one in found[name]]] for run, found in details.items()}
        page.figure(
            plots.curves(
                {**lines, **_DIAGONAL},
                marks=_marks(lines),
                title=f"Reliability, {title}",
                x="probability",
                y="share right",
            )
        )
    counts = {
        run: {f"{one['low']:.2g}-{one['high']:.2g}": one["count"] for one in found["equal_width"]}
        for run, found in details.items()
    }
    page.figure(plots.bars(counts, title="How sure", x="probability", y="questions"))


def _known(page: Page, details: Mapping[str, Any]) -> None:
    lines = {run: [found["risk_coverage"]] for run, found in details.items() if found["risk_coverage"]}
    if lines:
        page.figure(
            plots.curves(lines, title="Risk and coverage", x="share that is answered", y="share of it that is wrong")
        )


def _dates(page: Page, details: Mapping[str, Any]) -> None:
    found = {run: {one["date"]: one["accuracy"] for one in of["periods"]} for run, of in details.items()}
    page.figure(plots.bars(found, title="Accuracy by date", x="date", y="accuracy"))
    for run, of in details.items():
        page.text(
            f"{run}: the cut-off that is found is {of['cut_off']} ({of['log_likelihood_ratio']:.1f} nats)."
            if "cut_off" in of
            else f"{run}: accuracy falls nowhere."
        )


def _shares(page: Page, details: Mapping[str, Any]) -> None:
    points = {run: found["points"] for run, found in details.items()}
    page.figure(
        plots.scatter(points, title="Shares of answers", x="share in the sources", y="probability by the model")
    )


def _paraphrases(page: Page, details: Mapping[str, Any]) -> None:
    found = {run: of["templates"] for run, of in details.items() if "templates" in of}
    if found:
        page.figure(plots.bars(found, title="Accuracy by template", x="template", y="accuracy"))


def _groups(page: Page, details: Mapping[str, Any]) -> None:
    found = {run: {one["group"]: one["mean"] for one in of["groups"]} for run, of in details.items()}
    page.figure(plots.bars(found, title="By group", x="group", y="mean"))
    page.table([{"run": run, **one} for run, of in details.items() for one in of["groups"]])


def _probe(page: Page, details: Mapping[str, Any]) -> None:
    lines = {run: [list(enumerate(found["layers"]))] for run, found in details.items()}
    level = ("majority class", next(iter(details.values()))["majority"])
    page.figure(
        plots.curves(
            lines,
            title="Linear probe",
            x="layer (0 = embedding)",
            y="held-out accuracy",
            level=level,
            marks=_marks(lines),
        )
    )


def _retrieval(page: Page, details: Mapping[str, Any]) -> None:
    """Questions with their passages, and where these are to be found."""
    rows = []
    for run, found in details.items():
        for one in found["shown"]:
            read = "; ".join(_passage(passage, passage["n"] in one["cites"]) for passage in one["passages"])
            said = {"answer": one["answer"], "right": "yes" if one["right"] else "no"}
            rows.append({"run": run, "asked": one["asked"], **said, "passages": read})
    page.table(rows)


def _passage(passage: Mapping[str, Any], cited: bool) -> str:
    marks = [
        word for word, there in (("right", passage["gold"]), ("outdated", passage["stale"]), ("cited", cited)) if there
    ]
    told = f" ({', '.join(marks)})" if marks else ""
    return f"[{passage['n']}] {passage['id']}, {passage['where']}{told}"


_PICTURES: Mapping[str, Callable[[Page, Mapping[str, Any]], None]] = {
    "calibration": _calibration,
    "known": _known,
    "dates": _dates,
    "shares": _shares,
    "paraphrases": _paraphrases,
    "groups": _groups,
    "probe": _probe,
    "retrieval": _retrieval,
}
