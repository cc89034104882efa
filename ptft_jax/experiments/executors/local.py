"""Nodes in processes of their own on this machine, among which its accelerators are shared out."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.runs import files

_WORKER = "ptft_jax.verbs.worker"


class Local:
    """Implements `ptft_jax.experiments.executors.base.Executor`.

    A worker reads its task from standard input, which stays open: when it ends, this process is gone, and the worker saves and
    leaves as after SIGTERM.
    """

    here = False

    def __init__(self, slots: int = 1):
        """`slots`: how many processes at a time. Raises UserError where accelerators cannot be shared out among these."""
        self.slots = slots
        self._devices = [*shared_out(slots, os.environ)]
        self._running: dict[str, tuple[subprocess.Popen[bytes], Mapping[str, str]]] = {}
        self._ended: queue.Queue[tuple[str, Outcome]] = queue.Queue()

    def start(self, task: Task) -> None:
        log = pathlib.Path(task.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        outcome = log.with_suffix(".outcome.json")
        outcome.unlink(missing_ok=True)
        devices = self._devices.pop(0)
        with log.open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(outcome)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **devices},
                start_new_session=True,  # Ctrl-C is for this process, which asks the workers to leave
            )
        self._running[task.name] = process, devices
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
            process.stdin.write(json.dumps(dataclasses.asdict(task)).encode() + b"\n")
            process.stdin.flush()
        threading.Thread(target=self._wait, args=(task.name, process, outcome), daemon=True).start()

    def _wait(self, name: str, process: subprocess.Popen[bytes], path: pathlib.Path) -> None:
        status = process.wait()
        try:
            found = Outcome(**files.read_json(path)) if path.is_file() else None
            path.unlink(missing_ok=True)
        except (UserError, OSError, TypeError) as e:
            found = Outcome("failed", str(e))
        if found is None:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            found = Outcome("killed", f"its process ended {how}")
        self._ended.put((name, found))

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        try:
            name, outcome = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        process, devices = self._running.pop(name)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        self._devices.append(devices)
        return name, outcome

    def stop(self) -> None:
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def close(self) -> None:
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shared_out(slots: int, environment: Mapping[str, str], root: str = "/") -> list[dict[str, str]]:
    """What the environment of each of some processes says of its devices, {} where there are none to be shared out.

    Raises:
      UserError: fewer accelerators than processes, or such as cannot be shared out.
    """
    if slots < 1:
        raise UserError(f"--max_parallel={slots}: expected 1 or more")
    if slots == 1 or environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return [{}] * slots
    found = [pathlib.Path(path).name for path in sorted(glob.glob(os.path.join(root, "dev/nvidia[0-9]*")))]
    numbers = [name.removeprefix("nvidia") for name in found]
    if given := environment.get("CUDA_VISIBLE_DEVICES"):
        numbers = [number.strip() for number in given.split(",")]
    elif not numbers and any(glob.glob(os.path.join(root, pattern)) for pattern in ("dev/kfd", "dev/accel*")):
        raise UserError(
            f"--max_parallel={slots}: only accelerators of NVIDIA are shared out among processes: --max_parallel=1, or "
            "JAX_PLATFORMS=cpu"
        )
    if numbers and len(numbers) < slots:
        raise UserError(f"--max_parallel={slots}: there are {len(numbers)} accelerators: expected as many runs at most")
    each = len(numbers) // slots
    chosen: list[Any] = [numbers[n * each : (n + 1) * each] for n in range(slots)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(some)} if some else {} for some in chosen]
