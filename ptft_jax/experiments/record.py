"""FOLDER/experiment.json: what a launch was asked, and its nodes, written before the first of them begins."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptft_jax.experiments.store import seen_from
from ptft_jax.runs.files import read_json, write_json

if TYPE_CHECKING:  # who only reads it needs neither, nor JAX
    from ptft_jax.experiments.nodes import Graph
    from ptft_jax.experiments.plan import Step

FILE = "experiment.json"
MARKDOWN, PAGE = "experiment.md", "experiment.html"  # of its report (`ptft_jax.experiments.report`)
# Flags that say where and how a graph is carried out, not what it is.
_SWITCHES = ("dry_run", "halve_micro_batch")  # which take no value
_HOW = ("out", "executor", "max_parallel", "job", "retries", "reuse", "question", *_SWITCHES)


def check(graph: Graph, steps: Sequence[Step]) -> None:
    """Raises UserError where the baseline of the graph is none of its points; of a graph that grows its report says that."""
    if graph.baseline and not graph.grows:
        from ptft_jax.experiments import ranking

        ranking.baseline_of([_compared(step) for step in steps], graph.baseline)


def write(
    folder: pathlib.Path,
    graph: Graph,
    steps: Sequence[Step],
    command: Sequence[str],
    *,
    search: Mapping[str, Any] | None = None,
    refused: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes it.

    Args:
      search: flag -> value, of a search, whose trials the nodes are.
      refused: trials of which there is no node, as their config is refused: "name", "point", "message".
    """
    nodes = [_node(step, folder) for step in steps]
    write_json(
        folder / FILE,
        {
            "question": graph.question,
            "figure": graph.figure,
            "better": graph.better,
            "baseline": graph.baseline,
            "command": list(command),
            **({} if search is None else {"search": dict(search)}),
            "nodes": [*nodes, *({**refusal(one), "folder": "", "message": one["message"]} for one in refused)],
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
        skip = how and "=" not in word and name.removeprefix("no") not in _SWITCHES
    return shlex.join(kept)


def refusal(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial whose config is refused, as a node that came to nothing: {"name", "group", "point"} and what goes without saying."""
    known = {name: trial[name] for name in ("name", "group", "point")}
    return {"kind": "run", "status": "refused", "parents": [], "seed": None, **known}


def _node(step: Step, folder: pathlib.Path) -> dict[str, Any]:
    known = {name: value for name, value in _compared(step).items() if name != "settings"}
    return {**known, "folder": seen_from(folder, step.folder)}


def _compared(step: Step) -> dict[str, Any]:
    node = step.node
    return {
        "name": node.name,
        "kind": node.kind,
        "parents": node.parents(),
        "group": node.group,
        "point": dict(node.point),
        "seed": node.seed,
        "settings": step.identity.settings,
    }
