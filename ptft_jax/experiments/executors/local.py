"""Nodes in processes of their own on this machine, among which its accelerators are shared out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.runs import files

_WORKER = "ptft_jax.verbs.worker"
_OUTCOME = ".outcome.json"


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
        self._begun = 0
        self._ended: queue.Queue[tuple[str, Outcome]] = queue.Queue()

    def start(self, task: Task) -> None:
        log = pathlib.Path(task.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        _clean(log)
        self._begun += 1  # another file each time: a worker that outlives its driver may still write its own
        outcome = log.with_suffix(f".{os.getpid()}-{self._begun}{_OUTCOME}")
        devices = self._devices[0]
        with log.open("ab") as said:
            before = said.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(outcome)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **devices},
                start_new_session=True,  # Ctrl-C is for this process, which asks the workers to leave
            )
        self._devices.pop(0)
        self._running[task.name] = process, devices
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
            process.stdin.write(json.dumps(dataclasses.asdict(task)).encode() + b"\n")
            process.stdin.flush()
        said_here = functools.partial(_last_line, log, before)
        waited = (task.name, process, outcome, said_here, killed_for_memory())
        threading.Thread(target=self._wait, args=waited, daemon=True).start()

    def _wait(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        path: pathlib.Path,
        last_line: Callable[[], str],
        killed_before: int,
    ) -> None:
        status = process.wait()
        try:
            found = Outcome(**files.read_json(path)) if path.is_file() else None
            path.unlink(missing_ok=True)
        except (UserError, OSError, TypeError) as e:
            found = Outcome("failed", str(e))
        if found is None:
            found = _without_outcome(status, last_line, killed_for_memory() > killed_before)
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


def _clean(log: pathlib.Path) -> None:
    """Removes what workers of drivers that are gone have left of a node; what others are carrying out now, elsewhere too, is theirs."""
    for path in log.parent.glob(f"*{_OUTCOME}"):
        if re.fullmatch(rf"{re.escape(log.stem)}\.\d+-\d+{re.escape(_OUTCOME)}", path.name):
            path.unlink(missing_ok=True)


def killed_for_memory(root: str = "/") -> int:
    """How many processes of this one's control group the system has killed for memory; 0 where it does not say (cgroup v2 does)."""
    try:
        groups = pathlib.Path(root, "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        group = next(line.removeprefix("0::") for line in groups if line.startswith("0::"))
        events = (
            pathlib.Path(root, "sys/fs/cgroup", group.strip("/"), "memory.events").read_text(encoding="utf-8").split()
        )
        return int(dict(zip(events[::2], events[1::2]))["oom_kill"])
    except (OSError, StopIteration, KeyError, ValueError):
        return 0


def _without_outcome(status: int, last_line: Callable[[], str], short: bool) -> Outcome:
    """What became of a process that wrote nothing: killed by a signal, or failed of itself; `short`: the system has killed for memory
    meanwhile."""
    number = (
        -status if status < 0 else status - 128 if status > 128 else 0
    )  # 128 + N: it left at once, when it was asked again
    if number not in set(signal.Signals):
        return Outcome("failed", f"its process ended with status {status}: {last_line() or 'it said nothing'}")
    if short and number == signal.SIGKILL:
        return Outcome("out_of_memory", "its process was killed by the system, whose memory was full")
    more = " (by somebody, or by the system, whose memory was full)" if number == signal.SIGKILL else ""
    return Outcome("killed", f"its process ended by {signal.Signals(number).name}{more}")


def _last_line(log: pathlib.Path, begin: int) -> str:
    """The last line of a log that says something, of what was written after `begin`, in bytes."""
    try:
        with log.open("rb") as f:
            f.seek(begin)
            lines = f.read().decode("utf-8", "replace").splitlines()
    except OSError as e:
        return str(e)
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def shared_out(slots: int, environment: Mapping[str, str], root: str = "/") -> list[dict[str, str]]:
    """What the environment of each of some processes says of its devices, {} where there are none to be shared out.

    Raises:
      UserError: fewer accelerators than processes, or such as cannot be shared out.
    """
    if slots < 1:
        raise UserError(f"--max_parallel={slots}: expected 1 or more")
    if slots == 1 or environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return [{}] * slots
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:  # what is hidden stays so
        numbers = [] if given.strip() in ("", "-1") else [number.strip() for number in given.split(",")]
    else:  # CUDA counts those that are there from 0, whatever the files of the machine are called
        numbers = [str(n) for n in range(len(glob.glob(os.path.join(root, "dev/nvidia[0-9]*"))))]
    if not numbers and any(glob.glob(os.path.join(root, pattern)) for pattern in ("dev/kfd", "dev/accel*")):
        raise UserError(
            f"--max_parallel={slots}: only accelerators of NVIDIA are shared out among processes: --max_parallel=1, or "
            "JAX_PLATFORMS=cpu"
        )
    if numbers and len(numbers) < slots:
        raise UserError(f"--max_parallel={slots}: there are {len(numbers)} accelerators: expected as many runs at most")
    each = len(numbers) // slots
    chosen: list[Any] = [numbers[n * each : (n + 1) * each] for n in range(slots)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(some)} if some else {} for some in chosen]
