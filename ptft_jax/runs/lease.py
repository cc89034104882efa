"""Who owns a workdir: one launch at a time writes into it, and all processes of the launch see the same folder.

The owner holds a lock on a file of the workdir that says who it is. The operating system drops the lock of a process that has
ended, however it ended. Where the file was left by a process of another machine, whose lock this one may not see, its heartbeat
decides.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.runs import bucket, owner
from ptft_jax.runs.workdir import Workdir

_BEAT = 5.0  # seconds between two heartbeats
_SEEN = 60.0  # seconds that what process 0 wrote may take to reach the others: network file systems cache folders
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Busy(UserError):
    """Another launch owns the folder."""


@contextlib.contextmanager
def owned(
    workdir: pathlib.Path, say: Callable[[str], None] = lambda _: None, flag: str = "--workdir"
) -> Iterator[None]:
    """Owns a workdir, or an experiment's folder, which is made where it is not there. All processes of a run have to call it.

    Args:
      say: is told where it takes a while to see whether an owner elsewhere is alive.
      flag: what the folder was given as, for messages.

    Raises:
      Busy: another launch owns it, naming that.
      UserError: it cannot be written; or a process sees another folder under this path than process 0.
    """
    lease, problem, busy = None, "", False
    if processes.main():
        try:
            lease = _Lease(workdir, say, flag)
        except UserError as e:
            problem, busy = str(e), isinstance(e, Busy)
    nonce, problem, busy = processes.shared([lease.nonce if lease else "", problem, busy])
    if problem:
        raise (Busy if busy else UserError)(problem)
    try:
        _check_one_folder(workdir, nonce)
        yield
    finally:
        if lease is not None:
            lease.release()


def _check_one_folder(workdir: pathlib.Path, nonce: str) -> None:
    """Raises UserError, in all processes, where one does not see what process 0 wrote."""
    deadline = time.monotonic() + _SEEN
    while not (seen := owner.read(Workdir(workdir).owner).get("nonce") == nonce) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = [number for number, one in enumerate(processes.gather(seen)) if not one]
    if blind:
        hint = (
            "; of machines that share none, mount the bucket in all (ptft launch does)"
            if bucket.url_of(workdir)
            else ""
        )
        raise UserError(
            f"{workdir}: process {blind[0]} does not see there what process 0 wrote: all processes of a run need the same "
            f"workdir, on a file system that they share{hint}"
        )


class _Lease:
    """The lock and the file, held until `release`."""

    def __init__(self, workdir: pathlib.Path, say: Callable[[str], None], flag: str = "--workdir"):
        self._workdir, self._path, self.nonce = workdir, Workdir(workdir).owner, uuid.uuid4().hex
        self._flag = flag
        self._locks = True  # whether the file system has any
        try:
            self._made = [p for p in (workdir, *workdir.parents) if not p.exists()]
            self._file = self._locked()
        except FileExistsError as e:
            what = "a link that leads nowhere" if workdir.is_symlink() else "a file"
            raise UserError(f"{flag}={workdir}: is {what}, not a folder") from e
        except NotADirectoryError as e:
            raise UserError(f"{flag}={workdir}: {e.filename or workdir} is not in a folder") from e
        except OSError as e:
            raise UserError(f"{flag}={workdir}: cannot be written: {e.strerror or e}") from e
        try:
            self._wait_for_silence(say)
            self._beats = 0
            self._since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            self._write()
        except BaseException:
            os.close(self._file)
            raise
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def _locked(self) -> int:
        """An open, locked file at the path. Raises UserError where somebody else has the lock."""
        while True:
            self._workdir.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # an owner that left took the folder along
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise self._refusal(owner.read(self._path)) from None
            except OSError as e:
                if e.errno not in _NO_LOCKS:
                    os.close(file)
                    raise
                self._locks = False
            # The last owner may have removed the file between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            os.close(file)

    def _wait_for_silence(self, say: Callable[[str], None]) -> None:
        """Returns when nobody else is alive whose lock this machine does not see. Raises UserError where somebody is."""
        before = owner.read(self._path)
        if not self._path.read_bytes() or (self._locks and before.get("machine") == owner.machine()):
            return
        say(f"{self._workdir}: was left by {_named(before)}; waiting {owner.SILENCE:.0f} s for a sign of life")
        deadline = time.monotonic() + owner.SILENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, owner.SILENCE / 10))
            now = owner.read(self._path)
            if now != before:
                raise self._refusal(now or before)

    def _refusal(self, holder: dict[str, Any]) -> Busy:
        return refusal(self._flag, self._workdir, holder)

    def _write(self) -> None:
        holder = {
            "host": socket.gethostname(),
            "machine": owner.machine(),
            "pids": owner.pids(),
            "process": os.getpid(),
            "since": self._since,
            "nonce": self.nonce,
            "beats": self._beats,
        }
        text = json.dumps(holder).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        os.fsync(self._file)

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            self._beats += 1
            with contextlib.suppress(OSError):  # no space for a moment: the lock holds
                self._write()

    def release(self) -> None:
        """Gives the workdir up; folders that were made for nothing go too."""
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def refusal(flag: str, place: pathlib.Path | str, holder: dict[str, Any]) -> Busy:
    """What is said to a launch of a place that another one has; `flag`: as what it was given."""
    kind = "a workdir" if flag == "--workdir" else "a folder"
    return Busy(
        f"{flag}={place}: {_named(holder)} is running in it. One launch at a time writes into {kind}: wait for that one, end it, or choose "
        f"another {flag}"
    )


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} (since {holder.get('since')})"
