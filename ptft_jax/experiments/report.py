"""The report of an experiment: the question, the answer computed from the figures, and what it rests on, as Markdown and as a page."""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError, few
from ptft_jax.experiments import findings, ranking, results
from ptft_jax.experiments.nodes import Graph
from ptft_jax.experiments.plan import Step
from ptft_jax.experiments.ranking import Comparison
from ptft_jax.experiments.record import MARKDOWN, PAGE, asked
from ptft_jax.runs.files import write_text


def write(
    folder: pathlib.Path,
    graph: Graph,
    steps: Sequence[Step],
    collected: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
    command: Sequence[str] = (),
    *,
    refused: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> list[str]:
    """Writes experiment.md and experiment.html; returns what to say of it: the answers, and where the page is, or why there is none.

    Args:
      collected: what `results.collect` gives of the steps and their outcomes.
      refused: rows of trials without a node (`record.refusal`), which `outcomes` has, too.
      notes: what is said of the whole, too.
    """
    rows = [{**row, "settings": step.identity.settings} for row, step in zip(collected, steps, strict=True)]
    rows += refused
    compare = functools.partial(ranking.compare, rows, figure=graph.figure, better=graph.better)
    try:
        found = compare(baseline=graph.baseline)
    except UserError as e:  # which only some graph that grows can come to: all others were asked before
        found, notes = compare(), [*notes, f"Compared with the best, as {e}."]
    question = asked(graph.question, command)
    write_text(folder / MARKDOWN, markdown(question, rows, found, notes))
    told = [findings.answer(one) for one in several(found)]
    try:
        from ptft_jax.experiments import report_page
    except UserError as e:  # an extra that only the page needs
        return [*told, f"{folder / MARKDOWN} is the report; its page is not drawn: {e}"]
    folders = {step.node.name: step.folder for step in steps}
    typed = command or ["python", *sys.orig_argv[1:]]  # of a program of its own
    report_page.write(folder / PAGE, question, typed, rows, found, folders, outcomes, notes)
    return [*told, f"report: {folder / PAGE}"]


def markdown(
    question: str, rows: Sequence[Mapping[str, Any]], found: Sequence[Comparison], notes: Sequence[str] = ()
) -> str:
    """The report as text: the same bytes for the same results."""
    parts = [f"# {question}" if question else "# Experiment", counted(rows), *notes]
    for one in several(found):
        if len(several(found)) > 1:
            parts.append(f"## {one.name}")
        parts += [findings.answer(one), results.markdown(findings.table(one)).rstrip("\n"), *findings.cautions(one)]
    if not several(found):
        parts.append(UNCOMPARED)
    if single := findings.alone([one for one in found if len(one.points) == 1]):
        parts.append(single)
    if lost := unfinished(rows):
        parts.append(lost)
    parts.append(f"`{results.TABLE}.csv` has every figure by point, `{results.SUMMARY}.json` by node.")
    return "\n\n".join(parts) + "\n"


def several(found: Sequence[Comparison]) -> list[Comparison]:
    """Those of several ways."""
    return [one for one in found if len(one.points) > 1]


UNCOMPARED = "There is nothing to compare: no node came to a figure, or each to one of its own."


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many nodes there are, and how they ended."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return f"{len(rows):,} {'node' if len(rows) == 1 else 'nodes'}: {', '.join(f'{n:,} {status}' for status, n in counts.items())}."


def unfinished(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which nodes did not finish, by how they ended; "" where all did."""
    ended: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "finished":
            ended.setdefault(row["status"], []).append(row["name"])
    return " ".join(f"{status.replace('_', ' ').capitalize()}: {few(names)}." for status, names in ended.items())
