"""Where downloaded assets, tokenizers, tokens and compiled programs are kept between runs."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import pathlib
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator

from ptft_jax.errors import UserError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def root() -> pathlib.Path:
    """The cache folder: $PTFT_CACHE, else `ptft_jax` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if os.environ.get("PTFT_CACHE"):
        return pathlib.Path(os.environ["PTFT_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptft_jax"


def digest(*parts: bytes | str) -> str:
    """32 hex digits of the SHA-256 of the parts, each preceded by its length."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()[:32]


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, hexadecimal: it is read once a process, and again only where its size, times or inode change."""
    at = path.stat()
    return _sha256(str(path.absolute()), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino, at.st_dev)


@functools.lru_cache(maxsize=1 << 16)
def _sha256(path: str, *_: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 18):
            found.update(block)
    return found.hexdigest()


def write_atomic(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it: readers see all of it or nothing, and two
    writers do not disturb each other."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{path.suffix}"
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)  # by the user's umask
        try:
            write(temporary)
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
            os.chmod(temporary, mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


_LOCK = ".lock"
_YOUNG = 60.0  # seconds in which a new folder has got its lock
_OLD = 86_400.0  # seconds after which what has no lock, and has not changed, is nobody's


@contextlib.contextmanager
def at_work(folder: pathlib.Path) -> Iterator[None]:
    """Holds a lock in a folder that is being filled; the lock ends with its process, however that ends."""
    import fcntl

    with (folder / _LOCK).open("w", encoding="utf-8") as held:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        held.write(socket.gethostname())
        held.flush()
        yield
    (folder / _LOCK).unlink()


def clear_left(folder: pathlib.Path) -> None:
    """Deletes what processes that were killed left half made in a folder: hidden folders with a lock of this machine that nobody
    holds, and other hidden files and folders in which nothing has changed for a day (another machine's locks may not be seen)."""
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):  # another process was faster
            lock = path / _LOCK
            ours = lock.is_file() and lock.read_text(encoding="utf-8") == socket.gethostname()
            if _age(path) > (_YOUNG if ours else _OLD) and (not lock.is_file() or _unlocked(lock)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _age(path: pathlib.Path) -> float:
    """Seconds since a file, or a folder with what is in it, was changed."""
    inside = path.rglob("*") if path.is_dir() else ()
    return time.time() - max(each.stat().st_mtime for each in (path, *inside))


def _unlocked(path: pathlib.Path) -> bool:
    import fcntl

    with path.open("r+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks
            return False
    return True


def folder_beside(path: pathlib.Path) -> pathlib.Path:
    """A new folder beside `path`, to be renamed to it, with the mode that the user's umask gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    made.mkdir()
    return made


def as_new(folder: pathlib.Path) -> None:
    """Gives the files of a folder the mode that new files have by the user's umask: some libraries write private ones."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Names `path` where there is no space or no permission to write it. Raises UserError."""
    try:
        yield
    except OSError as e:
        other = e.filename is not None and not str(e.filename).startswith(str(path.parent))  # one that is read
        if e.errno not in _UNWRITABLE or other:
            raise
        cached = path.absolute().is_relative_to(root().absolute())
        hint = f" (the cache is {root()}; $PTFT_CACHE names another)" if cached else ""
        raise UserError(f"{e.filename or path}: cannot be written: {e.strerror}{hint}") from e
