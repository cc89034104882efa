"""Several JAX processes as one run: joining them, which of them writes, and what they all have to agree on.

Every process runs the same program on the same config and computes on its own devices. A decision that some of them could
take and others not (to stop, to continue from a checkpoint) is taken by all, from the same facts: `gather` and `Agreed`.
With one process everything here is free.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ptft_jax.errors import UserError, listed
from ptft_jax.parallel.coordinator import watched

AUTO = "auto"
_GOODBYE = 30  # seconds that a process which ends waits for the others to end too; after that, all are ended


def join(coordinator: str = "", processes: str = "", process: int | None = None) -> None:
    """Joins the other processes of a run, before JAX is used for anything else. Returns when all are there; where some are
    not after 5 minutes, JAX ends this process with a message of its own.

    A process that fails afterwards takes the others with it: after _GOODBYE seconds where it can still say goodbye (see
    `abandon`), else (kill -9, a lost machine) when JAX misses its heartbeat, after 100 seconds; at once where it was process 0, whose end is
    then said by each of the others (`ptft_jax.parallel.coordinator`).

    Args:
      coordinator: HOST:PORT of process 0; "" = $JAX_COORDINATOR_ADDRESS.
      processes: how many there are; "auto" where JAX can find everything itself (TPU pods, SLURM, Open MPI, Kubernetes);
        "" = this process is alone.
      process: number of this process, from 0.

    Raises:
      UserError: settings that are missing or do not fit together, or "auto" where JAX finds nothing.
    """
    where: dict[str, Any] = {}
    if processes not in ("", AUTO):
        count = int(processes) if processes.isascii() and processes.isdigit() else 0
        if count < 1:
            raise UserError(f"--processes={processes}: expected a number of processes, or 'auto'")
        if process is None or not 0 <= process < count:
            given = "is missing" if process is None else f"= {process}"
            raise UserError(f"--process {given}: expected the number of this process, from 0 to {count - 1}")
        where = {"coordinator_address": coordinator or None, "num_processes": count, "process_id": process}
    elif coordinator or process is not None:
        raise UserError("--coordinator and --process need --processes, the number of processes")
    if processes:
        # SIGTERM is ours: the loop saves and leaves, and before it starts the process just ends.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(**where, shutdown_timeout_seconds=_GOODBYE)
        except (ValueError, RuntimeError) as e:
            reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
            raise UserError(
                f"the processes did not find each other: {reason}\n"
                "Give each of them --coordinator=HOST:PORT (of process 0), --processes=N and --process=0 to N-1; "
                "--processes=auto is for TPU pods, SLURM, Open MPI and Kubernetes"
            ) from e
        if jax.process_index() and (place := _coordinator(coordinator)):
            with contextlib.suppress(OSError):  # no more processes are allowed: then it is not said
                _watchers().append(watched(place, jax.process_index()))
            atexit.register(leave_watch)
    elif jax.process_count() > 1:
        raise UserError(f"this is one of {jax.process_count()} processes: --processes=auto is missing")


def _coordinator(given: str) -> str:
    """HOST:PORT of process 0; "" where that is not known."""
    if given or (given := os.environ.get("JAX_COORDINATOR_ADDRESS", "")):
        return given
    from jax._src import distributed  # where JAX has found it by itself, nothing else says it

    return getattr(getattr(distributed, "global_state", None), "coordinator_address", None) or ""


@functools.cache
def _watchers() -> list[subprocess.Popen[bytes]]:
    """What looks after the coordinator beside this process, if anything does."""
    return []


def leave_watch() -> None:
    """Ends what looks after the coordinator: this process leaves in its own time, or because it was told to."""
    while _watchers():
        beside = _watchers().pop()
        beside.terminate()
        beside.wait()


def joined() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def abandon(status: int) -> None:
    """Ends this process, which has failed, with an exit status.

    Where all have failed alike, they say goodbye to each other. Where the others go on, they do not answer, and _GOODBYE
    seconds later JAX ends them with a message of its own. Threads of this process are not waited for: they may be waiting
    for the others, as those that save do.
    """
    leave_watch()
    # In a thread, and not to its end: without an answer, JAX would end this process too, with another status.
    goodbye = threading.Thread(target=_shut_down, daemon=True)
    goodbye.start()
    goodbye.join(0.8 * _GOODBYE)
    os._exit(status)


def _shut_down() -> None:
    with contextlib.suppress(RuntimeError):  # the others are gone already, or were never there
        jax.distributed.shutdown()


def main() -> bool:
    """Whether this is the process that writes files and speaks to people."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """The JSON-able value of every process, in order, the same list in all of them. All have to call it."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.pad(data, (0, int(sizes.max()) - len(data)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def shared(value: Any) -> Any:
    """The JSON-able value of process 0, in all of them. All have to call it."""
    return gather(value if main() else None)[0]


def check_same(values: Mapping[str, Any]) -> None:
    """Raises UserError, in all processes, where some have other values than process 0."""
    first, *others = gather(dict(values))
    for number, other in enumerate(others, 1):
        differ = [f"{name}: {first.get(name)!r} -> {v!r}" for name, v in other.items() if v != first.get(name)]
        if differ:
            raise UserError(f"process {number} was started with something else than process 0:{listed(differ)}")


def all_rows(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all processes from those of each: [n, ...] -> [n * processes, ...]. All have to call it."""
    if jax.process_count() == 1:
        return dict(batch)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(dict(batch), tiled=True)


class Agreed:
    """The largest of the numbers that the processes give, the same for all of them.

    With several processes the answer is that of the call before: the devices find it while they run the step that was
    started in between, so that no process waits for it longer than for that step. All have to call it equally often.
    """

    def __init__(self) -> None:
        self._waiting: jax.Array | None = None
        devices = Mesh(np.asarray(jax.devices()), ("devices",))
        self._each = NamedSharding(devices, PartitionSpec("devices"))
        self._largest = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(devices, PartitionSpec()))

    def __call__(self, mine: int) -> int:
        if jax.process_count() == 1:
            return mine
        numbers = np.full(jax.local_device_count(), mine, np.int32)
        before, self._waiting = (
            self._waiting,
            self._largest(jax.make_array_from_process_local_data(self._each, numbers)),
        )
        return 0 if before is None else int(before)
