"""Where downloaded assets, tokenizers, tokens and compiled programs are kept between runs: KIND/NAME for each of them
(`ptft_jax.data.cache_entries.KINDS`)."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import pathlib
import re
import socket
import stat
import uuid
from collections.abc import Callable, Iterator

from ptft_jax.data import cache_entries, cache_uses
from ptft_jax.errors import UserError

BOUND = "PTFT_CACHE_SIZE"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_UNITS = ("", "k", "m", "g", "t")


def root() -> pathlib.Path:
    """The cache folder: $PTFT_CACHE, else `ptft_jax` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if os.environ.get("PTFT_CACHE"):
        return pathlib.Path(os.environ["PTFT_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptft_jax"


def bound() -> int:
    """$PTFT_CACHE_SIZE in bytes, such as 20GB or 512MiB; 0 where it is not set: the cache grows. Raises UserError."""
    given = os.environ.get(BOUND, "").strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", given or "0", re.IGNORECASE)
    if not found or (found[3] and not found[2]):
        raise UserError(f"${BOUND} = {given!r}: expected a number of bytes, such as 20GB or 512MiB; 0 = no bound")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS.index(found[2].lower()))


def used(path: pathlib.Path, of: str = "") -> bool:
    """Whether there is such an entry, or a file of one, in the cache. From then on nobody takes the entry away, until this process
    ends.

    Args:
      of: what it is made from, for people.
    """
    found = _entry(path)
    assert found is not None, f"{path} is of no kind that the cache knows"
    return cache_uses.begin(root(), found, of) and path.exists()


def noted(path: pathlib.Path) -> bytes | None:
    """What a file of the cache says that is read at once; None where there is none."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    cache_uses.touch(path)
    return found


@contextlib.contextmanager
def placing(path: pathlib.Path, of: str = "") -> Iterator[None]:
    """Within it `path`, which is complete, gets its name. If that is of an entry of the cache, it is used from then on (see `used`),
    and the cache is kept below its bound."""
    found = _entry(path)
    kind = found.partition("/")[0] if found else ""
    with cache_uses.placing(root(), found, of) if kind and cache_entries.KINDS[kind].held else contextlib.nullcontext():
        yield
    if found and (most := bound()):
        cache_entries.written(root(), most, found, cache_entries.size_of(path))


def drop(path: pathlib.Path) -> None:
    """Deletes an entry that this process has done with, whoever else may use it; nothing where there is none."""
    found = _entry(path)
    assert found is not None, f"{path} is of no kind that the cache knows"
    with cache_uses.alone(root()):
        cache_uses.delete(path)
        cache_uses.forget(root(), [found])


def _entry(path: pathlib.Path) -> str | None:
    """The entry KIND/NAME of the cache that a path is of."""
    if not path.is_relative_to(root()):
        return None
    kind, *rest = path.relative_to(root()).parts or ("",)
    return f"{kind}/{rest[0]}" if rest and kind in cache_entries.KINDS else None


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


def write_atomic(path: pathlib.Path, write: Callable[[pathlib.Path], object], of: str = "") -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it: readers see all of it or nothing, and two
    writers do not disturb each other. `of` as for `placing`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _entry(path)
        if found and path != root() / found and cache_entries.KINDS[found.partition("/")[0]].held:
            cache_uses.begin(root(), found, of)  # a folder, which is there, while its file is being made
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{path.suffix}"
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)  # by the user's umask
        try:
            write(temporary)
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
            os.chmod(temporary, mode)
            with placing(path, of):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def at_work(folder: pathlib.Path) -> Iterator[None]:
    """Holds a lock in a folder that is being filled; the lock ends with its process, however that ends."""
    import fcntl

    with (folder / cache_entries.LOCK).open("w", encoding="utf-8") as held:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        held.write(socket.gethostname())
        held.flush()
        yield
    (folder / cache_entries.LOCK).unlink()


def clear_left(folder: pathlib.Path) -> None:
    """Deletes what processes that were killed left half made in a folder."""
    for path in cache_entries.left_half_made(folder):
        with contextlib.suppress(OSError):  # another process was faster
            cache_uses.delete(path)


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
