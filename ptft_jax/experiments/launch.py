"""An experiment from its graph to its table."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.experiments import data_places, record, report, results
from ptft_jax.experiments import plan as plans
from ptft_jax.experiments.executors.base import Executor
from ptft_jax.experiments.nodes import Graph
from ptft_jax.experiments.scheduler import Scheduler
from ptft_jax.experiments.store import Store
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import lease

EXECUTORS = ("inline", "local", "ray", "slurm", "jobs")


def executor(name: str, slots: int, **options: Any) -> Executor:
    """An executor by its name; `options` as of `ptft_jax.experiments.executors.on_slurm.OnSlurm`, or of
    `ptft_jax.experiments.executors.as_jobs.AsJobs`. Raises UserError."""
    if name not in EXECUTORS:
        raise UserError(f"--executor={name}: expected one of {', '.join(EXECUTORS)}{nearest(name, EXECUTORS)}")
    if name == "inline":
        from ptft_jax.experiments.executors.inline import Inline

        if slots != 1:
            raise UserError(f"--max_parallel={slots}: with --executor=inline one runs at a time: --executor=local")
        return Inline()
    if name == "ray":
        from ptft_jax.experiments.executors.on_ray import OnRay

        return OnRay(slots)
    if name == "slurm":
        from ptft_jax.experiments.executors.on_slurm import OnSlurm

        return OnSlurm(slots, **options)
    if name == "jobs":
        from ptft_jax.experiments.executors.as_jobs import AsJobs

        return AsJobs(slots, **options)
    from ptft_jax.experiments.executors.local import Local

    return Local(slots)


def look(
    graph: Graph, out: str | pathlib.Path, reuse: Sequence[str | pathlib.Path] = (), *, estimated: bool = False
) -> list[plans.Step]:
    """What `launch` would do, which writes nothing: of what follows from results, as far as these are there. `estimated`: with time and
    memory by arithmetic where no run tells them. Raises UserError."""
    planner = plans.Planner(Store(out, reuse))
    steps = planner.plan(graph)
    while graph.grows and (ended := plans.ended(steps)) and graph.grow(results.collect(steps, ended)):
        steps = planner.plan(graph)
    record.check(graph, steps)
    return planner.estimated(steps) if estimated else steps


def launch(
    graph: Graph,
    out: str | pathlib.Path,
    *,
    by: Executor,
    reuse: Sequence[str | pathlib.Path] = (),
    retries: int = 2,
    halve: bool = False,
    reporter: Reporter | None = None,
    show: bool = True,
    command: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Carries out what of a graph is not there yet, and writes summary.json, table.csv, table.md, experiment.md and experiment.html into `out`.

    Args:
      by: what it is carried out by (`executor`).
      reuse: folders of other experiments, whose finished nodes are taken.
      retries: see `Scheduler`.
      halve: see `Scheduler`.
      show: whether the table is shown, too.
      command: the words that carry it out again, for its report.

    Returns:
      How each node ended, see `Scheduler.carry_out`.

    Raises:
      UserError: anything wrong with the graph, before anything is done; another launch is running in `out`.
      Stopped: it was asked to leave; the same call continues.
    """
    reporter = reporter or Reporter()
    folder = Store(out, reuse).folder
    with lease.owned(folder, reporter.say, "--out"):
        store = Store(out, reuse)  # with what another launch did before it left
        planner = plans.Planner(store)
        steps = planner.plan(graph)
        record.check(graph, steps)
        record.write(store.folder, graph, steps, command)
        data_places.note(steps, store)
        for note in (*graph.notes, plans.totals(steps, by.slots)):
            reporter.say(note)

        def further(outcomes: Mapping[str, Mapping[str, Any]]) -> list[plans.Step]:
            """Steps that were not there before."""
            known, notes = {step.node.name for step in steps}, len(graph.notes)
            if not graph.grow(results.collect(steps, outcomes)):
                return []
            steps[:] = planner.plan(graph)
            record.write(store.folder, graph, steps, command)
            data_places.note(steps, store)
            added = [step for step in steps if step.node.name not in known]
            told = [f"from what these came to, {plans.totals(added, by.slots)}"] if plans.left(added) else []
            for note in (*graph.notes[notes:], *told):
                reporter.say(note)
            return added

        outcomes = Scheduler(steps, store, by, reporter, retries, halve, further if graph.grows else None).carry_out()
        rows = results.collect(steps, outcomes)
        shown = results.write(store.folder, rows)
        for said in report.write(store.folder, graph, steps, rows, outcomes, command):
            reporter.say(said)
    if show:
        reporter.table(str(store.folder / f"{results.TABLE}.md"), shown)
    return outcomes
