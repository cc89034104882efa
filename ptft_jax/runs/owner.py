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
    if holder.get("machine") == machine():
        try:
            os.kill(int(holder["process"]), 0)
        except ProcessLookupError:
            return False
        except (PermissionError, KeyError, TypeError, ValueError):
            pass  # another's process, or no number: the heartbeat says
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < SILENCE
    return False


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
