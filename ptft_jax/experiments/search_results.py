"""What a search came to: its trials beside the nodes, as files and in a sentence."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptft_jax.experiments import results, study
from ptft_jax.runs.files import write_json

if TYPE_CHECKING:
    from ptft_jax.experiments.search import Searching

BEST = "best.json"


def told(searched: Searching) -> str:
    """What was searched, how, and which trial is the best."""
    asked, best = searched.asked, searched.best
    pruned = "" if asked.pruner == study.NONE else f", pruned by {asked.pruner}"
    better = {"min": "smaller", "max": "larger"}[asked.direction]
    how = f"{len(searched.trials):,} trials by {asked.sampler}{pruned}, of {asked.metric}, of which {better} is better"
    if best is None:
        return f"{how}. None came to a finite value."
    return f"{how}. The best is {best['name']}, whose config is {BEST}."


def write(folder: pathlib.Path, searched: Searching, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Writes summary.json, table.csv, table.md and best.json of what `results.collect` gives of the trials that have a run; returns the rows
    of table.md."""
    each = [{**row, "group": row["name"]} for row in rows]
    figures = {line["name"]: line for line in results.table(each)} if rows else {}
    trials, best = [found for _, found in sorted(searched.trials.items())], searched.best
    columns = dict.fromkeys(
        [
            "name",
            "trial",
            "state",
            "value",
            *(f for t in trials for f in t["point"]),
            *(n for r in figures.values() for n in r),
        ]
    )
    lines = []
    for found in trials:
        known = {
            **figures.get(found["name"], {}),
            **found["point"],
            **{k: found[k] for k in ("name", "trial", "state", "value")},
        }
        lines.append({column: known.get(column) for column in columns})
    said = {"search": {**searched.asked.described(), "--trials": searched.asked.trials}, "best": best, "trials": trials}
    write_json(folder / f"{results.SUMMARY}.json", results.as_json({**said, "nodes": rows, "table": lines}))
    if best is not None:
        write_json(folder / BEST, searched.config_of(best["name"]))
    shown = [_shown(found, searched, best) for found in trials]
    results.write_tables(folder, list(columns), lines, shown)
    return shown


def _shown(found: Mapping[str, Any], searched: Searching, best: Mapping[str, Any] | None) -> dict[str, Any]:
    fields = dict.fromkeys(f for t in searched.trials.values() for f in t["point"])
    state = found["state"] + (f" at step {found['last'][0]}" if found["state"] == "pruned" and "last" in found else "")
    value = found["value"]
    return {
        "trial": found["name"],
        **{field: "-" if field not in found["point"] else _short(found["point"][field]) for field in fields},
        "state": "best" if best is not None and found is best else state,
        searched.asked.metric: "-" if value is None else f"{value:.4f}",
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
