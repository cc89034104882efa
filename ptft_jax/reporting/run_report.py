"""A report of finished or unfinished runs, from what they left in their workdirs; results.json beside it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import pipeline
from ptft_jax.errors import UserError
from ptft_jax.reporting import clock, merge_page, plots, run_names
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.summary_tables import by_adapter, confusion_rows, measures
from ptft_jax.runs.files import write_json
from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

Row = Mapping[str, Any]  # of a run, see `_read`


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Writes `out` and results.json beside it, with a run that is given twice once.

    Runs go by the name of their folder; where two have the same, all by their path.

    Raises:
      UserError: a folder that holds no run.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    names = run_names.names([folder.name for folder in folders], list(map(str, folders)))
    rows = [_read(name, folder) for name, folder in zip(names, folders)]
    write_json(out.with_name("results.json"), {row["name"]: row for row in rows})
    page = Page("Runs", ", ".join(map(str, folders)))
    page.heading("Summary")
    page.table([_summary(row) for row in rows])
    for part in (_curves, _combined, _before_after, _measures, _time, _drift, _data, _parameters, _samples):
        part(page, rows)
    page.write(out, footer="Every figure is in results.json beside this file.")


def _read(name: str, workdir: pathlib.Path) -> Row:
    """All that a run left but its checkpoints; "summary" is None of one that has not finished."""
    here = Workdir(workdir)
    here.check("--run")
    metrics, summary = here.read_metrics(), here.read_summary()
    return {
        "name": name,
        "workdir": str(workdir),
        "config": here.recorded_config(),
        "data": here.read_data(),
        "partition": here.read_partition(),
        "lineage": here.read_lineage(),
        "combined": merge_page.read(workdir),
        "summary": summary,
        "seconds_by": _seconds_by(here, summary),
        "train": [r for r in metrics if r["kind"] == "train"],
        "evals": [r for r in metrics if r["kind"] == "eval"],
        "samples": here.read_samples(),
    }


def _seconds_by(here: Workdir, summary: Mapping[str, Any] | None) -> dict[str, float]:
    """Where the time went, of a run that has not finished up to its last checkpoint; {} where that is not known."""
    if summary is not None:
        return summary.get("seconds_by", {})
    steps = here.steps()
    if steps:
        from ptft_jax.runs.checkpoint import Damaged, read_meta  # needs JAX
    for step in reversed(steps):
        with contextlib.suppress(Damaged, UserError):
            return read_meta(here.path, step).get("seconds_by", {})
    return {}


def _summary(row: Row) -> dict[str, Any]:
    s = row["summary"]
    trains = sum(g["parameters"] for g in row["partition"] if g["group"] == "trainable")
    steps = [r["step"] for r in row["train"] + row["evals"]]
    return {
        "run": row["name"],
        "from": place(row["lineage"][0]) if row["lineage"] else "random",
        "state": s["reason"] if s else "unfinished",
        "step": s["step"] if s else max(steps, default=0),
        "best step": s["best_step"] if s else "-",
        "trainable": trains,
        "optimizer MiB": s["optimizer_bytes"] / 2**20 if s else "-",
        "seconds": s["seconds"] if s else "-",
    }


def _curves(page: Page, rows: Sequence[Row]) -> None:
    """Losses and metrics of plugins over steps: of each set that was evaluated; and the loss of training."""
    own = {name for row in rows for name in row["config"].get("eval", {}).get("metrics", ())}
    for key in sorted({key for row in rows for r in row["evals"] for key in r}):
        name = key.rpartition("/")[2]
        if name == "nll" or name in own:
            lines = {row["name"]: [[(r["step"], r[key]) for r in row["evals"] if key in r]] for row in rows}
            lines = {name: points for name, points in lines.items() if points[0]}
            page.figure(plots.curves(lines, title=key, x="step", y="nats per token" if name == "nll" else name))
    train = {row["name"]: [[(r["step"], r["loss"]) for r in row["train"]]] for row in rows if row["train"]}
    if train:
        page.figure(plots.curves(train, title="training loss", x="step", y="nats per token"))


def _combined(page: Page, rows: Sequence[Row]) -> None:
    """What combined models were made of."""
    for row in rows:
        if row["combined"]:
            page.heading(f"{row['name']}: {row['combined']['method']}")
            page.text(merge_page.origin(row["combined"]))
            page.table(merge_page.table(row["combined"]))
            for figure in merge_page.figures(row["combined"]).values():
                page.figure(figure)


def _before_after(page: Page, rows: Sequence[Row]) -> None:
    finished = [row for row in rows if row["summary"] and row["summary"]["after"]]
    if finished:
        page.heading("Before and after (best checkpoint)")
    for row in finished:
        before, after = row["summary"]["before"], row["summary"]["after"]
        page.text(row["name"])
        page.table([{"metric": k, "before": before.get(k, "-"), "after": v} for k, v in sorted(after.items())])
        for name, table in row["summary"].get("confusion", {}).items():
            page.text(f"{row['name']}, {name}: a row for each class that there is, a column for each that was named")
            page.table(confusion_rows(table))


def _measures(page: Page, rows: Sequence[Row]) -> None:
    """What was gained and forgotten, and at what cost."""
    tables = {row["name"]: measures(row["summary"]) for row in rows if row["summary"]}
    for title, heading in (("transfer", "Gain and forgetting"), ("cost", "Cost of a training step")):
        found = [(name, figures) for name, parts in tables.items() for part, figures in parts if part == title]
        if found:
            page.heading(heading)
        for name, figures in found:
            page.text(name)
            page.table(figures)


def _time(page: Page, rows: Sequence[Row]) -> None:
    """Where the time of each run went; of what an earlier version carried out, nobody knows."""
    known = {row["name"]: row["seconds_by"] for row in rows if row["seconds_by"]}
    if not known:
        return
    page.heading("Where the time went")
    page.table([{"run": name, **clock.row(seconds)} for name, seconds in known.items()])
    shown = {name: {part.replace("_", " "): took for part, took in by.items()} for name, by in known.items()}
    page.figure(plots.stacked(shown, title="Wall time", x="seconds"))


def _drift(page: Page, rows: Sequence[Row]) -> None:
    """How far each part of the model moved, of several adapters by each."""
    each = {
        f"{row['name']}#{adapter}" if adapter else row["name"]: one.get("drift")
        for row in rows
        if row["summary"]
        for adapter, one in by_adapter(row["summary"]).items()
    }
    shares = {
        name: {part["part"]: 100 * part["relative"] for part in drift if part["relative"] is not None}
        for name, drift in each.items()
        if isinstance(drift, list)
    }
    if shares:
        page.heading("Drift from the start")
        page.figure(
            plots.bars(shares, title="Distance from the start", x="part of the model", y="% of the start's norm")
        )


def _data(page: Page, rows: Sequence[Row]) -> None:
    page.heading("Training data")
    for row in rows:
        page.text(" ".join([f"{row['name']}:", *pipeline.announced(row["data"])]))
        page.table(pipeline.shown(row["data"]))


def _parameters(page: Page, rows: Sequence[Row]) -> None:
    page.heading("Parameters")
    for row in rows:
        page.text(row["name"])
        page.table([{k: v for k, v in group.items() if k != "paths"} for group in row["partition"]])


def _samples(page: Page, rows: Sequence[Row]) -> None:
    """The last two texts of each run."""
    samples = [(row["name"], sample) for row in rows for sample in row["samples"][-2:]]
    if samples:
        page.heading("Samples")
    for name, sample in samples:
        page.sample(f"{name}, step {sample['step']}", sample["prompt"], sample["text"])
