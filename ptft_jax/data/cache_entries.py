"""What the cache holds, taken away where it is asked for, or where it exceeds its bound. Nothing that a running process uses is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Sequence

from ptft_jax.data import cache_uses as uses

LOCK = ".lock"  # in a folder that is being filled
_YOUNG = 60.0  # seconds in which a new folder has got its lock
_OLD = 86_400.0  # seconds after which what has no lock, and has not changed, is nobody's


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of entries, which lie in a folder of its name.

    Attributes:
      meaning: what they are.
      form: a pattern of their names. What has another name is none, and is left alone.
      held: whether processes read them for as long as they run; others are read at once.
    """

    meaning: str
    form: str
    held: bool = False


_KEY = r"[0-9a-f]{32}"
_HIDDEN = re.compile(r"\.(removed|(?P<of>.+?))\.[0-9a-z_]{8,32}(\.[^.]+)?")
KINDS = {
    "stores": Kind("tokenized data", _KEY, held=True),
    "unfinished": Kind("parts of tokenized data that is not finished", _KEY, held=True),
    "records": Kind("places of records in files", _KEY, held=True),
    "decompressed": Kind("decompressed copies", rf"{_KEY}(\..*)?", held=True),
    "arrow": Kind("Arrow streams as files", rf"{_KEY}\.arrow", held=True),
    "remote": Kind("copies of remote files", _KEY, held=True),
    "tokenizers": Kind("trained tokenizers", _KEY, held=True),
    "assets": Kind("embedded texts and models", r".+\.(whl|gguf)", held=True),
    "retrieved": Kind("passages found for questions", rf"{_KEY}\.npy", held=True),
    "references": Kind("predictions of parents and teachers", rf"{_KEY}\.npy", held=True),
    "digests": Kind("digests of source files", rf"{_KEY}(\.json)?"),
    "texts": Kind("what is known of text files", rf"{_KEY}\.json"),
    "readings": Kind("how records are read", _KEY),
    "quoting": Kind("how .tsv files are quoted", _KEY),
    "labels": Kind("names of classes", _KEY),
    "runs": Kind("indexes of runs", rf"{_KEY}\.sqlite"),
    "xla": Kind("compiled programs", r".+-(cache|atime)"),
}
IN_USE, BEING_MADE, LEFT = "in use", "being made", "left half made"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of them.

    Attributes:
      bytes: of all its files.
      last_used: seconds since 1970.
      made_from: "" where it is not known.
      state: "", or one of `IN_USE`, by a running process; `BEING_MADE` by one; `LEFT` by one that was killed.
    """

    kind: str
    name: str
    path: pathlib.Path
    bytes: int
    last_used: float
    made_from: str
    state: str

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"


def entries(root: pathlib.Path, kinds: Collection[str] = ()) -> list[Entry]:
    """All that the cache holds, or all of some kinds: kind by kind, the last used first."""
    used, found = uses.in_use(root), []
    for kind in kinds or KINDS:
        left = set(left_half_made(root / kind))
        for path in _inside(root / kind):
            hidden = path.name.startswith(".")
            if not (_is_half_made(kind, path) if hidden else _is_one(kind, path)):
                continue
            state = (
                (LEFT if path in left else BEING_MADE) if hidden else IN_USE if f"{kind}/{path.name}" in used else ""
            )
            with contextlib.suppress(OSError):  # it has just gone
                of = uses.made_from(root, f"{kind}/{path.name}")
                found.append(Entry(kind, path.name, path, size_of(path), _last_used(path), of, state))
    order = list(KINDS)
    return sorted(found, key=lambda entry: (order.index(entry.kind), -entry.last_used, entry.name))


def left_half_made(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """What processes that were killed left in the folder of a kind: hidden folders with a lock of this machine that nobody holds, and other
    hidden files and folders in which nothing has changed for a day (another machine's locks may not be seen)."""
    for path in folder.glob(".*"):
        if not _is_half_made(folder.name, path):
            continue
        with contextlib.suppress(OSError):  # another process was faster
            lock = path / LOCK
            ours = lock.is_file() and lock.read_text(encoding="utf-8") == socket.gethostname()
            if _age(path) > (_YOUNG if ours else _OLD) and (not lock.is_file() or uses.unlocked(lock)):
                yield path


def remove(root: pathlib.Path, chosen: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Deletes entries, but those that are used or being made by then. Returns what is gone, and what stays."""
    gone, stay, aside = [], [], []
    if not chosen:
        return gone, stay
    with uses.alone(root):
        used = uses.in_use(root)
        for entry in chosen:
            if entry.id in used or entry.state == BEING_MADE:
                stay.append(dataclasses.replace(entry, state=entry.state or IN_USE))
                continue
            hidden = entry.path.with_name(f".removed.{uuid.uuid4().hex}")
            try:
                entry.path.rename(hidden)
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as e:
                stay.append(dataclasses.replace(entry, state=f"cannot be removed: {e.strerror}"))
                continue
            aside.append(hidden)
            gone.append(entry)
        if gone:
            uses.forget(root, [entry.id for entry in gone])
    for path in aside:
        uses.delete(path)
    return gone, stay


def written(root: pathlib.Path, most: int, entry: str, size: int) -> None:
    """Keeps the cache below its bound, now that so many bytes were written to an entry: those that were used least recently go.

    Where others write, too, it is seen when the cache is looked at next: after a tenth of the bound.
    """
    room = _room(str(root.absolute()), most, os.getpid())
    room.left -= size
    if room.left < 0:
        total = shrink(root, most, keep=entry)
        # At least a thousandth: it is not looked at for every small note where what is in use fills it.
        room.left = max(min(most - total, most // 10), most // 1000)


def shrink(root: pathlib.Path, most: int, keep: str = "") -> int:
    """Deletes what was used least recently until the cache has at most so many bytes, or all else is in use; `keep` stays. Returns
    how many it has."""
    found = entries(root)
    total = left = sum(entry.bytes for entry in found)
    chosen = []
    for entry in sorted(found, key=lambda entry: (entry.state != LEFT, entry.last_used)):
        if left > most and entry.state in ("", LEFT) and entry.id != keep:
            chosen.append(entry)
            left -= entry.bytes
    gone, _ = remove(root, chosen) if chosen else ([], [])
    return total - sum(entry.bytes for entry in gone)


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    return sum(size_of(inside) for inside in _inside(path))


class _Room:
    """How many bytes this process may write before the cache is looked at again."""

    left = 0


@functools.lru_cache(maxsize=4)
def _room(root: str, most: int, process: int) -> _Room:
    return _Room()


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # there is none, or it has just gone
        return []


def _is_one(kind: str, path: pathlib.Path) -> bool:
    return bool(re.fullmatch(KINDS[kind].form, path.name)) or (kind == "stores" and (path / "meta.json").is_file())


def _is_half_made(kind: str, path: pathlib.Path) -> bool:
    """Whether a hidden name is one that the cache gives what becomes an entry, or what is being removed."""
    found = _HIDDEN.fullmatch(path.name)
    return bool(found) and (found["of"] is None or bool(re.fullmatch(KINDS[kind].form, found["of"])))


def _last_used(path: pathlib.Path) -> float:
    """A file's also by when it was read, as far as the file system notes that; folders are read by whoever looks at them."""
    stat = path.lstat()
    return stat.st_mtime if path.is_dir() else max(stat.st_mtime, stat.st_atime)


def _age(path: pathlib.Path) -> float:
    """Seconds since a file, or a folder with what is in it, was changed."""
    inside = path.rglob("*") if path.is_dir() else ()
    return time.time() - max(each.stat().st_mtime for each in (path, *inside))
