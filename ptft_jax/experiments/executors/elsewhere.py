"""What carries a node out on a machine of a cluster: a process of its own there, as `ptft_jax.experiments.executors.local` has it here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax import __version__, environment
from ptft_jax.errors import listed
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.experiments.executors.local import Local

_LOOK = 0.5  # seconds until it is seen that this process is asked to leave


def described() -> dict[str, Any]:
    """What a machine that carries nodes out needs to know of the one that asks: its folder, and the versions of what computes."""
    return {"folder": os.getcwd(), "versions": {"ptft_jax": __version__, **environment.versions()}}


def carry_out(
    task: Mapping[str, Any], asked_by: Mapping[str, Any], leave: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """An outcome of JSON's types. A task (`ptft_jax.experiments.executors.base.Task` as a dict) is not begun where versions differ from those
    of who asks (`described`), or its folder is not there; KeyboardInterrupt, SystemExit and `leave` ask it to save and leave."""
    if problem := _unlike(asked_by):
        return dataclasses.asdict(Outcome("failed", problem))
    os.chdir(asked_by["folder"])
    local, asked = Local(1), False
    try:
        local.start(Task(**task))
        while True:
            try:
                if (ended := local.ended(_LOOK)) is not None:
                    return dataclasses.asdict(ended[1])
                if not asked and leave():
                    asked = True
                    local.stop()
            except (KeyboardInterrupt, SystemExit):
                local.stop()
    finally:
        local.close()


def _unlike(asked_by: Mapping[str, Any]) -> str:
    mine, theirs = described()["versions"], asked_by["versions"]
    differ = [
        f"{name}: {mine.get(name)}, not {version}" for name, version in theirs.items() if mine.get(name) != version
    ]
    machine = os.uname().nodename
    if differ:
        return f"the machine {machine} has other versions than the one that asks:{listed(differ)}"
    if not os.path.isdir(asked_by["folder"]):
        return f"the machine {machine} does not see {asked_by['folder']}: all need one file system"
    return ""
