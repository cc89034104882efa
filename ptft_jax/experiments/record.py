"""FOLDER/experiment.json: what a launch was asked, and its nodes, written before the first of them begins."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptft_jax.runs.files import read_json, write_json

if TYPE_CHECKING:  # who only reads it needs neither, nor JAX
    from ptft_jax.experiments.nodes import Graph
    from ptft_jax.experiments.plan import Step

FILE = "experiment.json"
MARKDOWN, PAGE = "experiment.md", "experiment.html"  # of its report (`ptft_jax.experiments.report`)
# Flags that say where and how a graph is carried out, not what it is.
_HOW = ("out", "executor", "max_parallel", "job", "retries", "reuse", "dry_run", "question")


def write(folder: pathlib.Path, graph: Graph, steps: Sequence[Step], command: Sequence[str]) -> None:
    """Writes it. Raises UserError where the baseline of the graph is none of its points."""
    nodes = [_node(step, folder) for step in steps]
    if graph.baseline:
        from ptft_jax.experiments import ranking

        ranking.baseline_of(nodes, graph.baseline)
    write_json(
        folder / FILE,
        {
            "question": graph.question,
            "figure": graph.figure,
            "better": graph.better,
            "baseline": graph.baseline,
            "command": list(command),
            "nodes": [{name: value for name, value in node.items() if name != "settings"} for node in nodes],
        },
    )


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """What it says; None of a folder that is no experiment's. Raises UserError where it is damaged."""
    return read_json(folder / FILE) if (folder / FILE).is_file() else None


def asked(question: str, command: Sequence[str]) -> str:
    """The question; where nobody put one, the command without what says where and how it is carried out."""
    if question or not command:
        return question
    kept, skip = list[str](), False
    for word in command:
        name = word.lstrip("-").partition("=")[0]
        how = word.startswith("-") and name.removeprefix("no") in (*_HOW, *(f"no{flag}" for flag in _HOW))
        if not (how or skip):
            kept.append(word)
        skip = how and "=" not in word and "dry_run" not in word
    return shlex.join(kept)


def _node(step: Step, folder: pathlib.Path) -> dict[str, Any]:
    node = step.node
    inside = step.folder.is_relative_to(folder)
    return {
        "name": node.name,
        "kind": node.kind,
        "parents": node.parents(),
        "group": node.group,
        "point": dict(node.point),
        "seed": node.seed,
        "folder": str(step.folder.relative_to(folder) if inside else step.folder),
        "settings": step.identity.settings,
    }
