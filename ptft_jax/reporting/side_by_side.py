"""The table of measures of several runs. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Runs = Sequence[Mapping[str, Any]]  # {"run", "values", ...} of each


def table(runs: Runs, digits: int = 4) -> list[dict[str, Any]]:
    """A row per metric, a column per run, and the change from the first to the last."""
    names = dict.fromkeys(name for run in runs for name in run["values"])
    rows = []
    for name in names:
        values = [run["values"].get(name) for run in runs]
        row = {"": name.partition("/")[2]}
        row |= {run["run"]: "-" if v is None else f"{v:.{digits}f}" for run, v in zip(runs, values)}
        if len(runs) > 1:
            row["change"] = "-" if None in (values[0], values[-1]) else f"{values[-1] - values[0]:+.{digits}f}"
        rows.append(row)
    return rows
