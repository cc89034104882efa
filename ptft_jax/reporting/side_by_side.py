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
        row = {"": name.removeprefix("behavior/")}
        row |= {run["run"]: "-" if v is None else f"{v:.{digits}f}" for run, v in zip(runs, values)}
        if len(runs) > 1:
            row["change"] = "-" if None in (values[0], values[-1]) else f"{values[-1] - values[0]:+.{digits}f}"
        rows.append(row)
    return rows


def lines(runs: Runs) -> list[str]:
    """The table as text for people."""
    rows = table(runs)
    if not rows:
        return []
    columns = list(rows[0])
    widths = [max(len(row[name]) for row in (*rows, {n: n for n in columns})) for name in columns]
    found = []
    for row in ({name: name for name in columns}, *rows):
        cells = (row[name].rjust(w) if n else row[name].ljust(w) for n, (name, w) in enumerate(zip(columns, widths)))
        found.append("  ".join(cells).rstrip())
    return found
