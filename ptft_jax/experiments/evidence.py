"""What the nodes of a comparison left in their folders, for the report: curves, costs, samples, and what they were made with."""

from __future__ import annotations

import collections
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.experiments.ranking import Comparison, Point
from ptft_jax.runs.files import read_json
from ptft_jax.runs.workdir import Workdir

Points = list[tuple[float, float]]
Folders = Mapping[str, pathlib.Path]  # of a node, by its name
_COSTS = {"seconds": "seconds", "steps": "step", "tokens": "tokens_seen"}


def curves(found: Comparison, points: Sequence[Point], folders: Folders) -> dict[str, list[Points]]:
    """Name of a point -> for each of its nodes what the figure was over steps, where evaluations have it; also of nodes that did not finish."""
    lines = {}
    for point in points:
        ways = [_curve(folders[row["name"]], found.figure) for row in point.rows if row["name"] in folders]
        if ways := [way for way in ways if way]:
            lines[point.name] = ways
    return lines


def _curve(folder: pathlib.Path, figure: str) -> Points:
    try:
        rows = Workdir(folder).read_metrics()
    except UserError:  # what is damaged was said by the node itself, or was damaged since
        return []
    there = [(row["step"], row[figure]) for row in rows if row.get("kind") == "eval" and figure in row]
    return [(step, value) for step, value in there if math.isfinite(value)]


def costs(rows: Sequence[Mapping[str, Any]], folders: Folders) -> dict[str, dict[str, float]]:
    """Name of a node -> {"seconds", "steps", "tokens", "flops"} of those that say it."""
    found = {}
    for row in rows:
        if row["kind"] != "run" or row["name"] not in folders:
            continue
        summary = Workdir(folders[row["name"]]).read_summary() or {}
        known = {name: summary[key] for name, key in _COSTS.items() if summary.get(key) is not None}
        if summary.get("model_flops"):
            known["flops"] = summary["model_flops"]
        found[row["name"]] = known
    return found


def cost_rows(points: Sequence[Point], costs_: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row per point that has a run: means over its nodes."""
    rows = []
    for point in points:
        known = [costs_[row["name"]] for row in point.rows if costs_.get(row["name"])]
        if known:
            mean = {
                name: statistics.mean(one[name] for one in known) if all(name in one for one in known) else "-"
                for name in _COSTS
            }
            whole = {
                name: round(value) if name != "seconds" and value != "-" else value for name, value in mean.items()
            }
            rows.append({"way": point.name, "runs": len(known), **{f"{name} per run": v for name, v in whole.items()}})
    return rows


def samples(points: Sequence[Point], folders: Folders) -> list[dict[str, str]]:
    """A row per prompt, with a column for each point: the last text of its first node that has some."""
    texts: dict[str, dict[str, str]] = {}
    for point in points:
        for row in point.rows:
            last = {sample["prompt"]: sample["text"] for sample in _samples(folders.get(row["name"]))}
            for prompt, text in last.items():
                texts.setdefault(prompt, {})[point.name] = text
            if last:
                break
    names = [point.name for point in points if any(point.name in row for row in texts.values())]
    return [{"prompt": prompt, **{name: row.get(name, "-") for name in names}} for prompt, row in texts.items()]


def _samples(folder: pathlib.Path | None) -> list[dict[str, Any]]:
    try:
        return Workdir(folder).read_samples() if folder is not None else []
    except UserError:
        return []


def environments(folders: Folders) -> list[dict[str, Any]]:
    """What runs were made with, a row for each that differs, with how many."""
    counts: dict[tuple[Any, ...], int] = collections.Counter()
    for folder in folders.values():
        path = Workdir(folder).environment
        if path.is_file():
            try:
                e = read_json(path)
            except UserError:  # damaged: a row of its own, of which nothing is known
                e = {}
            packages = e.get("packages", {})
            devices = collections.Counter(e.get("devices", ()))
            counts[
                (
                    e.get("ptft_jax", "-"), (e.get("revision") or "-")[:12], e.get("python", "-"), packages.get("jax", "-"),
                    packages.get("flax", "-"), ", ".join(f"{n} × {device}" for device, n in devices.items()) or "-",
                    e.get("platform", "-"),
                )
            ] += 1  # fmt: skip
    heads = ("ptft_jax", "revision", "Python", "jax", "flax", "devices", "platform")
    return [{"runs": count, **dict(zip(heads, values))} for values, count in counts.items()]
