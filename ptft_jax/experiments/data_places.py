"""Where the data of finished runs lie now: they, or the folder of the experiment, may have been moved since the run was begun."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from ptft_jax import config as configs
from ptft_jax.experiments.nodes import config_of
from ptft_jax.experiments.plan import Step, left
from ptft_jax.experiments.store import Store
from ptft_jax.runs import meant
from ptft_jax.runs.workdir import Workdir


def note(steps: Sequence[Step], store: Store) -> None:
    """Writes into the folders of runs that are there where their data are now, as far as what is to be carried out is measured on them: what
    says that they are the same is their content, by which the run was found."""
    by_name, folders = ({step.node.name: step for step in steps}, {step.node.name: step.folder for step in steps})
    needed, asked = set[str](), [step.node.name for step in left(steps)]
    while asked:
        parents = [name for name in by_name[asked.pop()].node.parents() if name not in needed]
        needed.update(parents)
        asked += parents
    for step in steps:
        there = step.node.name in needed and step.action in ("cached", "resume") and step.node.kind == "run"
        if there and store.owns(step.folder) and Workdir(step.folder).is_run:
            _note(step, folders)


def _note(step: Step, folders: dict[str, pathlib.Path]) -> None:
    recorded, begun = Workdir(step.folder).recorded_config(), meant.begun_in(step.folder) or ""
    values, here = config_of(step.settings(folders)).to_dict(), os.getcwd()
    moved = {}
    for path in meant.DATA:
        means, before, now = meant.SETTINGS[path], configs.get(recorded, path), configs.get(values, path)
        sources = [now] if isinstance(now, str) else [name for name, _ in now]
        named = before and now and all(":" in name for name in sources)  # else what a run says of it: "parent"
        if named and means(before, begun) != means(now, here):
            moved[path] = now
    if moved or Workdir(step.folder).read_moved():
        Workdir(step.folder).write_moved(here, moved)
