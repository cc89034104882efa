"""Combined models in reports: what they were made of, and the curve between a run and its parent."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

_SETS = {"validation/nll": "the run's data", "source/nll": "its parent's data"}


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What a combined model was made of, or None for a run that was trained."""
    return Workdir(workdir).read_recipe()


def origin(made: Mapping[str, Any]) -> str:
    """A line: the method, the base, and the models with their weights."""
    runs = [
        place(entry) + (f" x {entry['weight']:.3g}" if entry.get("weight") is not None else "")
        for entry in made["runs"]
    ]
    at = f" at {made['alpha']:g}" if made["method"] == "interpolate" else ""
    base = f" on {place(made['base'])}" if made["base"] else ""
    return f"{made['method']}{at} of {', '.join(runs)}{base}"


def table(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a curve, or of the steps of a greedy soup; none where there are neither."""
    if "curve" in made:
        rows = [{"alpha": row["alpha"], **{k: row[k] for k in _SETS if k in row}} for row in made["curve"]]
        return [{**row, "chosen": row["alpha"] == made["alpha"]} for row in rows]
    return made.get("steps", [])


def figures(made: Mapping[str, Any]) -> dict[str, str]:
    """SVG files by name: the losses over alpha, and where both were measured, the one over the other."""
    rows, chosen = made.get("curve", ()), made.get("alpha")
    if not rows:
        return {}
    from ptft_jax.reporting import plots  # needs an extra

    there = {key: name for key, name in _SETS.items() if key in rows[0]}
    at = next(row for row in rows if row["alpha"] == chosen)
    out = {
        "curve.svg": plots.curves(
            {name: [[(row["alpha"], row[key]) for row in rows]] for key, name in there.items()},
            title="between the parent (0) and the run (1)",
            x="alpha",
            y="nats per token",
            marks={name: [(chosen, at[key])] for key, name in there.items()},
        )
    }
    if len(there) == 2:
        target, source = there
        out["trade.svg"] = plots.curves(
            {"parent to run": [[(row[source], row[target]) for row in rows]]},
            title="gain against forgetting",
            x=f"nats per token on {there[source]}",
            y=f"nats per token on {there[target]}",
            marks={"parent to run": [(at[source], at[target])]},
        )
    return out
