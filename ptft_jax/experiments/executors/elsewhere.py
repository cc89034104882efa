"""What carries a node out on a machine of a cluster: a process of its own there, as `ptft_jax.experiments.executors.local` has it here."""

from __future__ import annotations

import dataclasses
import os
import time
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
    task: Mapping[str, Any],
    asked_by: Mapping[str, Any],
    *,
    hold: float = 0.0,
    leave: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """An outcome of JSON's types. A task (`ptft_jax.experiments.executors.base.Task` as a dict) is not begun where versions differ from those
    of who asks (`described`), or its folder is not there.

    Whatever a handler of signals raises here asks the task to save and leave; when it has, KeyboardInterrupt is answered by the outcome, and
    what else it was is raised again: who raised it says what becomes of the task.

    Args:
      hold: seconds that are waited for such a signal where the task was asked to leave by somebody else.
      leave: asked now and then whether the task is to save and leave.
    """
    if problem := _unlike(asked_by):
        return dataclasses.asdict(Outcome("failed", problem))
    os.chdir(asked_by["folder"])
    local, asked, left = Local(1), list[BaseException](), False
    try:
        local.start(Task(**task))
        while (ended := _ended(local, asked)) is None:
            if not left and leave():
                left = True
                local.stop()
        if not asked and ended.status == "interrupted" and "sigterm" in ended.message:
            time.sleep(hold)
    finally:
        local.close()
    if raised := [error for error in asked if not isinstance(error, KeyboardInterrupt)]:
        raise raised[0]
    return dataclasses.asdict(ended)


def _ended(local: Local, asked: list[BaseException]) -> Outcome | None:
    """The outcome, where there is one soon. What is raised meanwhile is noted, and passed on."""
    try:
        ended = local.ended(_LOOK)
        return None if ended is None else ended[1]
    except BaseException as e:
        asked.append(e)
        local.stop()
        return None


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
