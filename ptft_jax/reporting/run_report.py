"""A report of finished or unfinished runs, from what they left in their workdirs; results.json beside it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ptft_jax.data import pipeline
from ptft_jax.errors import UserError, nearest
from ptft_jax.lineage import place
from ptft_jax.reporting import combined, plots
from ptft_jax.reporting.measures import by_adapter, measures
from ptft_jax.reporting.metrics import METRICS, SAMPLES, read, write_json
from ptft_jax.reporting.page import Page


def write(workdirs: list[pathlib.Path], out: pathlib.Path) -> None:
    """Writes `out` and results.json beside it. Raises UserError for a folder that holds no run."""
    rows = [_read(workdir) for workdir in workdirs]
    write_json(out.with_name("results.json"), {row["name"]: row for row in rows})
    page = Page("Runs", ", ".join(str(w) for w in workdirs))
    page.heading("Summary")
    page.table([_summary(row) for row in rows])
    sets = sorted({key for row in rows for r in row["evals"] for key in r if key.endswith("/nll")})
    for key in sets:
        lines = {row["name"]: [[(r["step"], r[key]) for r in row["evals"] if key in r]] for row in rows}
        lines = {name: points for name, points in lines.items() if points[0]}
        page.figure(plots.curves(lines, title=key, x="step", y="nats a token"))
    train = {row["name"]: [[(r["step"], r["loss"]) for r in row["train"]]] for row in rows if row["train"]}
    if train:
        page.figure(plots.curves(train, title="training loss", x="step", y="nats a token"))
    for row in rows:
        if row["combined"]:
            page.heading(f"{row['name']}: {row['combined']['method']}")
            page.text(combined.origin(row["combined"]))
            page.table(combined.table(row["combined"]))
            for figure in combined.figures(row["combined"]).values():
                page.figure(figure)
    pairs = [_before_after(row) for row in rows]
    if any(pairs):
        page.heading("Before and after (best checkpoint)")
        for row, pair in zip(rows, pairs):
            if pair:
                page.text(row["name"])
                page.table(pair)
    measured = {row["name"]: row["summary"] for row in rows if row["summary"]}
    tables = {name: measures(summary) for name, summary in measured.items()}
    for title, heading in (("transfer", "Gain and forgetting"), ("cost", "Cost of a training step")):
        found = [(name, figures) for name, parts in tables.items() for part, figures in parts if part == title]
        if found:
            page.heading(heading)
        for name, figures in found:
            page.text(name)
            page.table(figures)
    each = {
        f"{name}#{adapter}" if adapter else name: one
        for name, summary in measured.items()
        for adapter, one in by_adapter(summary).items()
    }
    drift = {name: s["drift"] for name, s in each.items() if isinstance(s.get("drift"), list)}
    if drift:
        page.heading("Drift from the start")
        shares = {n: {r["part"]: 100 * r["relative"] for r in d if r["relative"] is not None} for n, d in drift.items()}
        page.figure(
            plots.bars(shares, title="Distance from the start", x="part of the model", y="% of the start's norm")
        )
    page.heading("Training data")
    for row in rows:
        page.text(" ".join([f"{row['name']}:", *pipeline.announced(row["data"])]))
        page.table(pipeline.shown(row["data"]))
    page.heading("Parameters")
    for row in rows:
        page.text(row["name"])
        page.table([{k: v for k, v in group.items() if k != "paths"} for group in row["partition"]])
    samples = [(row["name"], s) for row in rows for s in row["samples"][-2:]]
    if samples:
        page.heading("Samples")
        for name, s in samples:
            page.sample(f"{name}, step {s['step']}", s["prompt"], s["text"])
    page.write(out, footer="Every figure is in results.json beside this file.")


def _read(workdir: pathlib.Path) -> dict[str, Any]:
    if not (workdir / "config.json").is_file():
        beside = [str(p.parent) for p in workdir.parent.glob("*/config.json")] if workdir.parent.is_dir() else []
        raise UserError(f"--run={workdir}: no run there (no config.json){nearest(str(workdir), beside)}")
    summary = workdir / "summary.json"
    metrics = read(workdir / METRICS)
    return {
        "name": workdir.name,
        "workdir": str(workdir),
        "config": json.loads((workdir / "config.json").read_text()),
        "data": json.loads((workdir / "data.json").read_text()),
        "partition": json.loads((workdir / "partition.json").read_text()),
        "lineage": json.loads((workdir / "lineage.json").read_text()),
        "combined": combined.read(workdir),
        "summary": json.loads(summary.read_text()) if summary.is_file() else None,
        "train": [r for r in metrics if r["kind"] == "train"],
        "evals": [r for r in metrics if r["kind"] == "eval"],
        "samples": read(workdir / SAMPLES),
    }


def _summary(row: dict[str, Any]) -> dict[str, Any]:
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


def _before_after(row: dict[str, Any]) -> list[dict[str, Any]]:
    s = row["summary"]
    if not s:
        return []
    nothing = "-"
    return [{"metric": k, "before": s["before"].get(k, nothing), "after": v} for k, v in sorted(s["after"].items())]
