"""Which entries of the cache running processes use, when each was last used, and what it was made from.

ROOT/uses/lock                 held while an entry is put in its place or begun to be used (shared), or some are taken away
ROOT/uses/processes/ID         of each process that uses any: its machine, then a name of an entry a line; locked while it runs
ROOT/uses/made_from/KIND/NAME  what an entry was made from

An entry is called KIND/NAME. Its own time of change is that of the last use: it is set when a process begins to use it, and when
that process ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shutil
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Collection, Iterator

FOLDER = "uses"
_FORGOTTEN = 7 * 86_400.0  # seconds after which another machine's process has ended: its lock may not be seen from here
_ONE_AT_A_TIME = threading.Lock()


def begin(root: pathlib.Path, entry: str, of: str = "") -> bool:
    """Whether an entry is there. From then on this process uses it: nobody takes it away."""
    path = root / entry
    if not path.exists():
        return False
    with _locked(root):
        if not path.exists():
            return False
        _mark(root, entry, of)
    return True


@contextlib.contextmanager
def placing(root: pathlib.Path, entry: str, of: str = "") -> Iterator[None]:
    """Within it an entry is put in its place. From then on this process uses it."""
    with _locked(root):
        yield
        _mark(root, entry, of)


def alone(root: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Within it nobody puts an entry in its place, or begins to use one."""
    return _locked(root, alone=True)


def in_use(root: pathlib.Path) -> set[str]:
    """The entries that running processes use."""
    found: set[str] = set()
    for path in _files(root / FOLDER / "processes"):
        with contextlib.suppress(OSError):  # it has ended
            machine, *entries = path.read_text(encoding="utf-8").splitlines() or [""]
            if _runs(path, machine):
                found.update(entries)
    return found


def made_from(root: pathlib.Path, entry: str) -> str:
    """What an entry was made from; "" where it is not known."""
    try:
        return (root / FOLDER / "made_from" / entry).read_text(encoding="utf-8")
    except OSError:
        return ""


def forget(root: pathlib.Path, entries: Collection[str]) -> None:
    """Deletes what is noted of entries that are gone, and of processes that have ended. To be called `alone`."""
    for entry in entries:
        with contextlib.suppress(OSError):
            (root / FOLDER / "made_from" / entry).unlink(missing_ok=True)
    for path in _files(root / FOLDER / "processes"):
        with contextlib.suppress(OSError):
            machine = path.read_text(encoding="utf-8").partition("\n")[0]
            if not _runs(path, machine):
                path.unlink()


def touch(path: pathlib.Path) -> None:
    """Notes that an entry is used now, where that can be noted."""
    with contextlib.suppress(OSError):
        os.utime(path)


def unlocked(path: pathlib.Path) -> bool:
    """Whether nobody holds a lock on a file; not where that cannot be known. Raises OSError where it cannot be opened."""
    return _held(path) is False


def _held(path: pathlib.Path) -> bool | None:
    """Whether somebody holds a lock on a file; None on a file system without locks."""
    import fcntl

    with _opened(path, os.O_RDWR) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _runs(path: pathlib.Path, machine: str) -> bool:
    """Whether the process of this file is running."""
    held = _held(path)
    unseen = held is None or machine != socket.gethostname()  # by age alone
    return bool(held) or (unseen and time.time() - path.stat().st_mtime < _FORGOTTEN)


@contextlib.contextmanager
def _opened(path: pathlib.Path, flags: int) -> Iterator[int]:
    """A descriptor of a file; where it is another user's, of one that is only read."""
    try:
        held = os.open(path, flags, 0o666)
    except PermissionError:
        held = os.open(path, os.O_RDONLY)
    try:
        yield held
    finally:
        os.close(held)


@contextlib.contextmanager
def _locked(root: pathlib.Path, alone: bool = False) -> Iterator[None]:
    """Holds the lock of a cache; none where the file system has none, or does not let it be made."""
    import fcntl

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            (root / FOLDER).mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(_opened(root / FOLDER / "lock", os.O_RDWR | os.O_CREAT))
            fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _mark(root: pathlib.Path, entry: str, of: str) -> None:
    """Notes that this process uses an entry. To be called with the lock held."""
    with contextlib.suppress(OSError):
        with _ONE_AT_A_TIME:
            new = _process(str(root.absolute()), os.getpid()).add(entry)
        if new:
            touch(root / entry)
        note = root / FOLDER / "made_from" / entry
        if of and not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(of, encoding="utf-8")


@functools.lru_cache(maxsize=4)
def _process(root: str, _: int) -> _Process:
    return _Process(pathlib.Path(root))


class _Process:
    """This process, as one of those that use a cache."""

    def __init__(self, root: pathlib.Path):
        import fcntl

        folder = root / FOLDER / "processes"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        self._entries: set[str] = set()
        self._file = path.open("a", encoding="utf-8")
        weakref.finalize(self, _end, root, path, self._file, self._entries, os.getpid())
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(socket.gethostname())

    def add(self, entry: str) -> bool:
        """Whether the entry is new to it."""
        if entry in self._entries:
            return False
        self._write(entry)
        self._entries.add(entry)
        return True

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


def _end(root: pathlib.Path, path: pathlib.Path, file, entries: Collection[str], process: int) -> None:
    """What a process notes when it ends; one that is killed does not, and its lock ends all the same."""
    if os.getpid() == process:  # not one that was forked from it
        for entry in entries:
            touch(root / entry)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    file.close()


def delete(path: pathlib.Path) -> None:
    """Deletes a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
