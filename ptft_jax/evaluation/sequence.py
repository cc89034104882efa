"""Sequences of tasks: every stage of a chain of runs on every task, and what learning one did to the others.

Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", section 2.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.evaluation import standalone
from ptft_jax.reporting.comparison import Finished, read
from ptft_jax.runs import loading
from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

# The settings of a task's data that say what its examples and rows become.
_READING = ("template", "train_on", "packing", "overlong", "untrainable", "broken", "held_out")


def scores(matrix: Sequence[Sequence[float]], *, less_is_better: bool = False) -> dict[str, float | None]:
    """Average, backward and forward transfer.

    Args:
      matrix: [T + 1, T]; row 0 is the model before the sequence (b in the paper, where it is random; here what forward
        transfer is measured from is what came before), row i the model after task i; column j is task j + 1.
      less_is_better: of losses; both transfers then have the other sign, so that more is better.

    Returns:
      "average": mean of the last row (equation 2); "backward": mean over tasks before the last of the last row minus the
      diagonal (equation 3); "forward": mean over tasks after the first of the row before it was learned minus row 0 (equation
      4). The transfers of a single task are None.
    """
    tasks = len(matrix) - 1
    if tasks < 1 or any(len(row) != tasks for row in matrix):
        raise ValueError(f"expected T + 1 rows of T figures, got rows of {[len(row) for row in matrix]}")
    sign = -1 if less_is_better else 1
    last = matrix[tasks]
    backward = [sign * (last[j] - matrix[j + 1][j]) for j in range(tasks - 1)]
    forward = [sign * (matrix[j][j] - matrix[0][j]) for j in range(1, tasks)]
    return {
        "average": sum(last) / tasks,
        "backward": sum(backward) / len(backward) if backward else None,
        "forward": sum(forward) / len(forward) if forward else None,
    }


def measure(references: Sequence[str | pathlib.Path], *, say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluates every stage of a chain of runs on the test split of every task: as many tokens of it, in rows as long and
    read as by the run that learned the task.

    Args:
      references: the runs (WORKDIR[#ADAPTER]) in order, each the parent of the next; the first has a parent, too.

    Returns:
      {"stages": T + 1 names, "tasks": T names, and for "accuracy" and "nll": {"matrix": [T + 1, T], "scores": see `scores`}}.

    Raises:
      UserError: the runs are no chain, one is not finished, or they have not the same objective.
    """
    runs = [read(reference) for reference in references]
    _check_chain(runs)
    last = runs[-1]
    at_best = f"{last.workdir}@best" + (f"#{last.adapter}" if last.adapter else "")
    stages = [_parent(runs[0]), *map(_parent, runs[1:]), at_best]
    tables: dict[str, list[list[float]]] = {"accuracy": [], "nll": []}
    for stage in stages:
        loaded = loading.load(stage)
        values = []
        for run in runs:
            data = run.config["data"]
            reading = {name: data[name] for name in _READING}
            values.append(
                standalone.evaluate(
                    loaded,
                    data["source"],
                    "test",
                    tokens=run.config["eval"]["tokens"],
                    batch_size=run.config["eval"]["batch_size"] or data["batch_size"],
                    length=data["length"],
                    **reading,
                )
            )
            if lacks := [name for name in tables if name not in values[-1]]:
                objective = run.config["objective"]["name"]
                raise UserError(
                    f"--sequence: what is compared is {' and '.join(tables)}, and {run.name} (objective.name = {objective!r}) has no "
                    f"{lacks[0]}"
                )
            say(f"{stage} on {run.name}: loss {values[-1]['nll']:.4f}, accuracy {values[-1]['accuracy']:.4f}")
        for name, table in tables.items():
            table.append([row[name] for row in values])
    return {
        "stages": ["before", *(f"after {run.name}" for run in runs)],
        "tasks": [run.name for run in runs],
        "checkpoints": stages,
        **{
            name: {"matrix": table, "scores": scores(table, less_is_better=name == "nll")}
            for name, table in tables.items()
        },
    }


def _parent(run: Finished) -> str:
    """The checkpoint that a run started from."""
    return place(run.lineage[0])


def _check_chain(runs: Sequence[Finished]) -> None:
    if not runs[0].lineage:
        raise UserError(
            f"{runs[0].workdir} has no parent: name the runs that learned the tasks, the base comes from them"
        )
    for before, run in zip(runs, runs[1:]):
        parent = run.lineage[0] if run.lineage else {}
        ours = bool(parent.get("run_id")) and parent["run_id"] == Workdir(before.workdir).run_id
        if not ours or parent.get("adapter", "") != before.adapter:
            known = place(parent) if parent else "nothing"
            raise UserError(f"--sequence: {run.reference} starts from {known}, not from {before.reference}")
    for run in runs[1:]:
        names = [r.config["objective"]["name"] for r in (runs[0], run)]
        if names[0] != names[1]:
            raise UserError(f"--sequence: {runs[0].reference} has objective {names[0]}, {run.reference} {names[1]}")
