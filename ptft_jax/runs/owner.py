"""What the file says that names who runs a workdir (`ptft_jax.runs.lease`). Needs no JAX."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from typing import Any

from ptft_jax.runs.workdir import Workdir

SILENCE = 30.0  # seconds without a heartbeat after which an owner elsewhere is taken to be dead


def alive(workdir: pathlib.Path) -> bool:
    """Whether somebody seems to own a workdir, by its file alone, without a lock that a launch could meet."""
    path = Workdir(workdir).owner
    holder = read(path)
    if not holder:
        return False
    if ended(holder):
        return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < SILENCE
    return False


def is_here(holder: dict[str, Any]) -> bool:
    """Whether the number of the process in such a file is one of those that this process sees. Files of earlier versions do not say it where
    there may be several containers on a machine: of these the heartbeat decides."""
    return holder.get("machine") == machine() and holder.get("pids", "") == pids()


def ended(holder: dict[str, Any]) -> bool:
    """Whether it is known that the process in such a file has ended. Else the heartbeat says."""
    if not is_here(holder):
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, TypeError, ValueError):
        pass  # another's process, or no number
    return False


def pids() -> str:
    """What tells the numbers of processes that this one sees from those of other containers on the same machine; "" where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return ""


def machine() -> str:
    """What tells this machine, as long as it runs, from all others: locks are seen by all of its processes."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # not Linux
        return socket.gethostname()


def read(path: pathlib.Path) -> dict[str, Any]:
    """What the file says; {} where it is not there or is just being written."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
