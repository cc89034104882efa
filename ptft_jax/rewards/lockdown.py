"""Running a program that nobody has read: in a process of its own, with bounds on all that it may take.

It has time, memory and output up to limits, a folder of its own that goes away with it, no environment of ours, no open files of ours,
and the standard library. On Linux it cannot open sockets, start processes, signal others (seccomp), or read and write files elsewhere
(Landlock), where the kernel has these; `open_ways` says what is not shut off. That keeps accidents of a model's programs from a
machine; programs of an attacker belong into a virtual machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from ptft_jax.errors import UserError

_JAIL = pathlib.Path(__file__).with_name("jail.py")
_LOOK = 0.05  # seconds between looks at whether it has ended


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a program: seconds by the clock, seconds of computing, bytes of memory, bytes that it may write."""

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 512 << 20
    output: int = 65536


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended: whether it came to its end, tests included; why not; what it wrote; and what it was not shut off from."""

    passed: bool
    reason: str
    output: str
    open_ways: tuple[str, ...] = ()


def run(code: str, limits: Limits, *, tests: str = "", given: str = "") -> Outcome:
    """Runs a program, and after it `tests` with the names that it has made; it can read `given` as its input. Whatever it does is an
    outcome. Nothing of it is left when this returns.

    A program has passed where it and its tests came to their end: one that leaves early, by whatever exit status, has not.
    """
    token = secrets.token_hex(16)
    request = {
        "code": code,
        "tests": tests,
        "main": not tests,
        "token": token,
        "cpu_seconds": limits.cpu_seconds,
        "memory": limits.memory,
        "output": limits.output,
    }
    folder = tempfile.mkdtemp(prefix="ptft-program-")
    try:
        with _file(json.dumps(request)) as asked, _file(given) as stdin:
            status, written, why = _carried_out(folder, asked, stdin, limits)
    finally:
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)  # however deep it is
    return _outcome(status, written, why, token if tests else "")


def _carried_out(folder: str, asked: Any, stdin: Any, limits: Limits) -> tuple[int, dict[str, bytes], str]:
    """The exit status of the program, what it wrote, and why it was ended; "" = it ended itself."""
    told, tell = os.pipe()
    with open(told, "rb", buffering=0) as status:
        try:
            process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", str(_JAIL), str(asked.fileno()), str(tell)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(asked.fileno(), tell),
                cwd=folder,
                env={"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **_of_interpreter()},
                start_new_session=True,
            )
        finally:
            os.close(tell)
        with process:
            try:
                written, why = _watched(process, status, limits)
            finally:
                _kill(process)
    return process.returncode, written, why


@functools.cache
def open_ways(limits: Limits) -> tuple[str, ...]:
    """What programs are not shut off from on this machine, in words. Raises UserError where none can be run."""
    if not hasattr(os, "waitid"):
        raise UserError("config.rewards.program: this system lacks waitid, by which programs are watched: use Linux")
    found = run("", limits, tests="pass")
    if not found.passed:
        raise UserError(f"config.rewards.program: not even an empty program can be run here: {found.reason}")
    return found.open_ways


def _of_interpreter() -> dict[str, str]:
    """What of our environment an interpreter may need to start at all."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}


def _file(text: str) -> Any:
    """An open file without a name that holds a text."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(text.encode("utf-8", "surrogatepass"))
    file.seek(0)
    return file


def _watched(process: Any, status: Any, limits: Limits) -> tuple[dict[str, bytes], str]:
    """What a process wrote until its end, or that of its time or room: ({"out", "err", "status"}, why it has to be ended)."""
    written, until = {"out": b"", "err": b"", "status": b""}, time.monotonic() + limits.seconds
    ended = False
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("out", process.stdout), ("err", process.stderr), ("status", status)):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, name)
        while True:
            ready = selector.select(0 if ended else max(min(until - time.monotonic(), _LOOK), 0))
            for key, _ in ready:
                new = os.read(key.fd, 1 << 16)
                written[key.data] += new
                if not new:
                    selector.unregister(key.fileobj)
            if any(len(text) > limits.output for text in written.values()):
                return written, "it wrote too much"
            if ended and not ready:
                return written, ""
            if not ended and _has_ended(process.pid):
                _kill_group(process.pid)  # what it has left behind holds its pipes open
                ended = True
            elif not ended and time.monotonic() > until:
                return written, "out of time"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays one, so that its number is nobody else's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill(process: Any) -> None:
    """Ends a process with all that it has started, and waits for it."""
    if process.returncode is None:
        _kill_group(process.pid)
        process.kill()
        process.wait()


def _outcome(status: int, written: dict[str, bytes], why: str, token: str) -> Outcome:
    """`token`: what is told at the end; "" = the exit status says whether it came to that."""
    output = written["out"].decode("utf-8", "replace")
    first, _, told = written["status"].decode("ascii", "replace").partition("\n")
    if why:
        reason = why
    elif status < 0:
        reason = "out of computing time" if status == -signal.SIGXCPU else f"ended by {_signal(-status)}"
    elif not status and token in ("", told):
        reason = ""
    else:
        lines = written["err"].decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1][:300] if lines else f"it left with status {status} before its tests did"
    ways = json.loads(first) if first.startswith("[") else ()
    return Outcome(not reason, reason or "passed", output, tuple(ways))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
