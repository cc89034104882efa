"""What an experiment came to: summary.json, and a table of each point's mean and spread over seeds. Nothing in it depends on where,
when or in how many attempts it was carried out."""

from __future__ import annotations

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.experiments.plan import Step
from ptft_jax.runs.files import read_json, write_json, write_text
from ptft_jax.runs.workdir import Workdir

SUMMARY, TABLE = "summary", "table"
_COLUMNS = ("name", "runs", "of", "diverged")  # of the table, beside axes and figures
_KEPT = ("reason", "step", "best_step", "selected", "before", "after", "transfer", "parameters")  # of a run's summary


def collect(steps: Sequence[Step], outcomes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per node, in the plan's order."""
    rows = []
    for step in steps:
        node, outcome = step.node, outcomes[step.node.name]
        row = {
            "name": node.name,
            "kind": node.kind,
            "status": outcome["status"],
            "fingerprint": step.identity.fingerprint,
            "parents": node.parents(),
            "group": node.group,
            "point": dict(node.point),
            "seed": node.seed,
        }
        if outcome["status"] == "finished":
            row["result"] = _result(step)
            row |= _micro_batches(step)
        rows.append(row)
    return rows


def _micro_batches(step: Step) -> dict[str, int]:
    """How many micro-batches a run had where that is not what its node says: more, as its memory was not enough."""
    if step.node.kind != "run" or not Workdir(step.folder).is_run:
        return {}
    asked, had = (
        configs.get(config, "training.micro_batches", 1)
        for config in (step.node.settings["config"], Workdir(step.folder).recorded_config())
    )
    return {} if had == asked else {"micro_batches": had}


def _result(step: Step) -> Any:
    if step.node.kind in ("run", "merge"):
        summary = Workdir(step.folder).read_summary() or {}
        found = {name: summary[name] for name in _KEPT if name in summary}
        if found.get("transfer"):  # which also says where the parent is
            found["transfer"] = {part: _numbers(v) for part, v in found["transfer"].items() if isinstance(v, Mapping)}
        return found
    return read_json(Workdir(step.folder).node)["result"]["values"]


def metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a node that came to some."""
    result = row.get("result")
    if not isinstance(result, Mapping):
        return {}
    found = dict(result.get("after", {} if "step" in result else result))
    transfer = result.get("transfer") or {}
    for name, key in (("gain", "target"), ("forgetting", "source")):
        found[name] = (transfer.get(key) or {}).get(name)
    return _numbers(found)


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each point of each group: "name", what its axes have, "runs" that came to something of "of", and of each figure the
    mean and "_sd", the standard deviation over seeds; None of what is not known, or of one run alone."""
    points: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault((row["group"], repr(row["point"])), []).append(row)
    fields = list(dict.fromkeys(field for row in rows for field in row["point"]))
    every = {id(row): metrics(row) for row in rows}
    names = {name: _column(name, fields) for found in every.values() for name in found}
    out = []
    for same in points.values():
        known = [every[id(row)] for row in same if row["status"] == "finished"]
        line: dict[str, Any] = {"name": same[0]["group"], **{field: same[0]["point"].get(field) for field in fields}}
        line |= {"runs": len(known), "of": len(same)}
        line["diverged"] = sum(row["status"] == "diverged" for row in same)
        for name, column in names.items():
            values = [found[name] for found in known if name in found]
            whole = bool(values) and len(values) == len(known)
            line[column] = _mean(values) if whole else None
            line[f"{column}_sd"] = _spread(values) if whole and len(values) > 1 else None
        out.append(line)
    return out


def _column(figure: str, fields: Sequence[str]) -> str:
    """The column of a figure: its name, but where that is another column's."""
    return f"result/{figure}" if figure.removesuffix("_sd") in (*_COLUMNS, *fields) else figure


def _mean(values: Sequence[float]) -> float:
    """The mean; nan where one of the figures is not finite."""
    return statistics.mean(values) if all(map(math.isfinite, values)) else math.nan


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; nan where one of the figures is not finite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def as_json(value: Any) -> Any:
    """A value with the names of figures that are not finite in their place ("nan", "inf"): JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def write(folder: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Writes summary.json, table.csv and table.md of what `collect` gives; returns the rows of the last, for people."""
    lines = table(rows)
    write_json(folder / f"{SUMMARY}.json", as_json({"nodes": rows, "table": lines}))
    shown = narrow(rows, lines)
    write_tables(folder, list(lines[0]), lines, shown)
    return shown


def write_tables(
    folder: pathlib.Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]
) -> None:
    """Writes table.csv of lines with these columns, and table.md of what is `shown` of them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder / f"{TABLE}.csv", text.getvalue())
    write_text(folder / f"{TABLE}.md", markdown(shown))


def narrow(rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table for people: axes, and what runs were selected by, gained and forgot; of evaluations their loss."""
    selected = [row["result"]["selected"]["metric"] for row in rows if row["kind"] == "run" and "result" in row]
    chosen = [name for name in dict.fromkeys((*selected, "gain", "forgetting", "nll", "accuracy")) if name in lines[0]]
    fields = list(dict.fromkeys(field for row in rows for field in row["point"]))
    out = []
    for line in lines:
        shown = {"name": line["name"], **{f: "-" if line[f] is None else str(line[f]) for f in fields}}
        shown["runs"] = f"{line['runs']}/{line['of']}" + (f", {line['diverged']} diverged" if line["diverged"] else "")
        out.append(shown | {name: _figure(line[name], line[f"{name}_sd"]) for name in chosen})
    return out


def _figure(mean: float | None, deviation: float | None) -> str:
    if mean is None or not math.isfinite(mean):
        return "-"
    return f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a table of Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
