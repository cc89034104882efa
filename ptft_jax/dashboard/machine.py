"""What of this machine is in use: processors, memory, and NVIDIA's GPUs where its tool is there."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import threading
import time
from typing import Any

_FRESH = 2.0  # seconds for which what was found holds
_PATIENCE = 5.0  # seconds that the tool may take
_ASKED = ("index", "name", "utilization.gpu", "memory.used", "memory.total")


class Machine:
    """What is in use. May be asked by several threads."""

    def __init__(self) -> None:
        self._lock, self._found, self._at = threading.Lock(), dict[str, Any](), -_FRESH
        self._ticks = _ticks()

    def use(self) -> dict[str, Any]:
        """{"cpus", "cpu" (share, since last asked), "memory", "memory_total" (bytes), "gpus": [{"name", "use", "memory", "memory_total"}]}; None of
        what this system does not say."""
        with self._lock:
            if time.monotonic() - self._at >= _FRESH:
                before, self._ticks = self._ticks, _ticks()
                self._found = {"cpus": os.cpu_count(), "cpu": _share(before, self._ticks), **_memory(), "gpus": _gpus()}
                self._at = time.monotonic()
            return self._found


def _ticks() -> tuple[int, int] | None:
    """(busy, all) ticks of all processors since the start."""
    try:
        line = pathlib.Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:  # not Linux
        return None
    ticks = [int(word) for word in line.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _share(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    if before is None or now is None or now[1] <= before[1]:
        return None
    return (now[0] - before[0]) / (now[1] - before[1])


def _memory() -> dict[str, int | None]:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"memory": None, "memory_total": None}
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    total = kib.get("MemTotal", 0)
    return {"memory": (total - kib.get("MemAvailable", 0)) * 1024, "memory_total": total * 1024}


def _gpus() -> list[dict[str, Any]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return gpus_of(done.stdout) if done.returncode == 0 else []


def gpus_of(text: str) -> list[dict[str, Any]]:
    """What NVIDIA's tool prints: a line per GPU, in percent and MiB; "[N/A]" of what it does not know."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == len(_ASKED):
            use, used, total = (float(word) if word.replace(".", "").isdigit() else None for word in words[2:])
            found.append(
                {
                    "name": f"{words[0]}: {words[1]}",
                    "use": None if use is None else use / 100,
                    "memory": None if used is None else used * 2**20,
                    "memory_total": None if total is None else total * 2**20,
                }
            )
    return found
