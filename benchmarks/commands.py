"""A program in a process of its own: its seconds and the peak of its memory, from outside."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

# The peak of a process counts that of the one which started it, so that a small one does.
_SMALL = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)]))
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""


def run(words: Sequence[str], cache: pathlib.Path) -> tuple[str, float, float]:
    """(what `python WORDS` printed, its seconds, the peak of resident memory of the largest of its processes in bytes) with a
    data cache of its own, on the CPU. RuntimeError where it failed."""
    environment = {**os.environ, "PTFT_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _SMALL, sys.executable, *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)[-200:]}: {done.stderr.strip()[-2000:]}")
    *said, measured = done.stdout.splitlines()
    seconds, peak = json.loads(measured)
    return "\n".join(said), seconds, peak
