"""What is said where the coordinator of several processes is lost: JAX's runtime then ends the others at once, from a thread of its own, with
its own words, and calls nothing of ours. So a small process beside each of them looks after it. Imports nothing but the standard library."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

_LOOK = 0.5  # seconds between two looks at the process
_TRIES = 3  # to reach the coordinator


def watched(coordinator: str, process: int) -> subprocess.Popen[bytes]:
    """Starts what says, when this process (number `process`) has ended and the coordinator at HOST:PORT is not there any more, who was lost and
    what to do. It ends with this process, and is ended (`terminate`) where this process leaves in its own time."""
    words = [str(os.getpid()), coordinator, str(process)]
    return subprocess.Popen([sys.executable, "-I", "-S", __file__, *words], stdin=subprocess.DEVNULL)


def lost(coordinator: str) -> bool:
    """Whether nobody listens at HOST:PORT."""
    host, _, port = coordinator.rpartition(":")
    for _ in range(_TRIES):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
            return False
        except OSError:
            time.sleep(_LOOK)
    return True


def message(coordinator: str, process: int) -> str:
    return (
        f"process {process} on {socket.gethostname()} has ended, and process 0, the coordinator at {coordinator}, does not answer any more. Where "
        "nobody ended both, process 0 was lost (killed, its machine, or the way to it), and the others with it; what it wrote last may say more. "
        "The same command, given to all processes, goes on from the last checkpoint"
    )


def _main(parent: int, coordinator: str, process: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while os.getppid() == parent:
            time.sleep(_LOOK)
        if lost(coordinator):
            print(message(coordinator, process), file=sys.stderr, flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
