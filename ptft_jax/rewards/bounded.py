"""What may never end: done in a process of its own, which is ended when its time is over.

Python cannot end a search or a validation from outside: signals arrive in the main thread alone, and threads cannot be ended.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import selectors
import subprocess
import sys
import time
import weakref
from typing import Any

from ptft_jax.errors import UserError

_START = 30.0  # seconds that the process may take to begin
_WORKER = pathlib.Path(__file__).with_name("worker.py")


class TooLong(Exception):
    """A job took more time than it may."""


class Bounded:
    """Does jobs of `ptft_jax.rewards.worker`, one after the other. Its process begins with the first, and again after one that took too
    long or ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What a job gives. Raises TooLong; UserError for what is wrong with the job itself."""
        process = self._started(job["job"])
        assert process.stdin is not None and process.stdout is not None
        found = b""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            found = _line(process, seconds)
        if not found.endswith(b"\n"):  # out of time, or the process ended: of memory, or of a stack
            ended = process.poll() is not None
            self.close()
            if ended:
                return {
                    "found": False,
                    "valid": False,
                    "ended": True,
                    "reason": "what looked at the answer ended: it ran out of memory",
                }
            raise TooLong
        result = json.loads(found)
        if "error" in result:
            raise UserError(result["error"])
        return result

    def _started(self, kind: str) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-P", str(_WORKER), kind]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            self._finalizer = weakref.finalize(self, _end, self._process)
            if _line(self._process, _START) != b"ready\n":
                self.close()
                raise UserError(f"a process of its own cannot be started to look at answers: {' '.join(command)}")
        return self._process

    def close(self) -> None:
        """Ends the process, where there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = None


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line that a process writes; what there is of it after so many seconds, or at its end."""
    assert process.stdout is not None
    found, until = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not found.endswith(b"\n") and selector.select(max(until - time.monotonic(), 0)):
            new = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not new:
                break
            found += new
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
