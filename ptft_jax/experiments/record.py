"""FOLDER/experiment.json: what a launch was asked, and its nodes, written before the first of them begins."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from ptft_jax.experiments import comparisons
from ptft_jax.experiments.nodes import Graph
from ptft_jax.experiments.plan import Step
from ptft_jax.runs.files import read_json, write_json

FILE = "experiment.json"


def write(folder: pathlib.Path, graph: Graph, steps: Sequence[Step], command: Sequence[str]) -> None:
    """Writes it. Raises UserError where the baseline of the graph is none of its points."""
    nodes = [_node(step, folder) for step in steps]
    if graph.baseline:
        comparisons.baseline_of(nodes, graph.baseline)
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
