"""What is known of the records of a file after one pass over it: where each lies, digests of it, which columns turn up
first where, and what is broken."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ptft_jax.data import cache, checked
from ptft_jax.data.formats import Reading
from ptft_jax.data.formats.late import Firsts
from ptft_jax.data.records import values
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError

# A record: bytes [start, end) of the file where it lies there, its line or position (what `Shard.place` is told), and
# digests: of what is read of it, of the texts that it says (of what is read where it says none), and of its id.
ROW = np.dtype(
    [
        ("start", "<i8"), ("end", "<i8"), ("number", "<i8"), ("high", "<u8"), ("low", "<u8"),
        ("text_high", "<u8"), ("text_low", "<u8"), ("id", "<u8"),
    ]
)  # fmt: skip
_PACK = struct.Struct("<qqq16s16s8s")
_LARGE = 1 << 20  # bytes of an index whose digest is worth a note of its own
_MANY = 32  # shards from which their indexes are kept together
_SMALL = 1 << 16  # bytes that each of these may have on average
_TINY = 1 << 12  # bytes of one that is not kept beside them: to make it again takes no longer than to open it
HINT = "; correct it, or leave such records out with data.broken=skip"


class Found(NamedTuple):
    """A record as a pass over a file finds it, or why it cannot be read."""

    start: int
    end: int
    number: int
    record: Record | Broken


class Reader(Protocol):
    """An open shard. Any number of threads may read."""

    def read(self, row: np.void) -> Record: ...


class Shard(Protocol):
    """A file, or a split of a dataset that other software keeps. It may have `class_names`, see `Records`.

    Attributes:
      name: what it is called in messages.
      key: what decides its records, "" if that cannot be told and the index is to be made each time.
      files: the local files that it is in -> digests of their content.
    """

    name: str
    key: str
    files: Mapping[str, str]

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        """All records, in order. Columns that neither the reading nor the id needs may be missing."""
        ...

    def open(self, reading: Reading) -> Reader:
        """For reading records, whole: but for values that JSON has no type for, in columns that are not read."""
        ...

    def check(self) -> None:
        """Raises UserError where the file is no longer the one that `key` is of."""
        ...

    def place(self, number: int) -> str:
        """ "line 12": what a person would look up inside it."""
        ...


@dataclasses.dataclass(frozen=True)
class Index:
    """What one pass over a shard found.

    Attributes:
      count: of the records that can be read.
      skipped: of those that cannot; places without the name of the shard.
      firsts: where columns turn up first, see `ptft_jax.data.formats.late.Firsts`; indices among those that can be read.
    """

    count: int
    skipped: Skipped
    firsts: dict[str, list[int]]
    _kept: pathlib.Path | np.ndarray

    def rows(self) -> np.ndarray:
        """[count] of `ROW`. Memory-mapped, which keeps a file open for as long as something refers to it."""
        if isinstance(self._kept, np.ndarray):
            return self._kept
        return np.memmap(self._kept, ROW, "r") if self.count else np.empty(0, ROW)


class Indexes(NamedTuple):
    """Those of the shards of a source, in order.

    Attributes:
      rows: of all, one after the other, where they are kept together; None where each has its own.
    """

    each: list[Index]
    rows: np.ndarray | None

    def columns(self, *names: str) -> np.ndarray:
        """[all records, names] of `ROW`."""
        parts = [index.rows() for index in self.each] if self.rows is None else [self.rows]
        return np.concatenate([np.stack([part[name] for name in names], axis=1) for part in parts])


def of_all(shards: Sequence[Shard], id_column: str | None, forgiving: bool, reading: Reading) -> Indexes:
    """The indexes of shards. Those of many small files are also kept together: a later start opens one file in the place of two for each.

    Raises:
      UserError: see `of`.
    """
    together = len(shards) >= _MANY and all(shard.key for shard in shards)
    key = (
        cache.digest("indexes-1", id_column or "", reading.identity, *(shard.key for shard in shards))
        if together
        else ""
    )
    path = cache.root() / "records" / key / "rows"
    of_what = f"{shards[0].name} and {len(shards) - 1} more"
    if together and cache.used(path, of_what) and (noted := _noted(path)) is not None:
        found = _parts(noted[:3], np.asarray(np.memmap(path, ROW, "r")))
        for shard, index in zip(shards, found.each):
            _check(shard, index, forgiving)
        return found
    each = [of(shard, id_column, forgiving, reading, tiny=_TINY if together else 0) for shard in shards]
    if together and 0 < sum(index.count for index in each) * ROW.itemsize <= _SMALL * len(shards):
        skipped = [[number, i.skipped.count, i.skipped.first] for number, i in enumerate(each) if i.skipped.count]
        firsts = [[number, i.firsts] for number, i in enumerate(each) if i.firsts]
        _keep(path, of_what, lambda to: _join(each, to), [[i.count for i in each], skipped, firsts])
    return Indexes(each, None)


def _join(each: Sequence[Index], to: pathlib.Path) -> None:
    with open(to, "wb", buffering=1 << 20) as file:
        for index in each:
            file.write(index.rows().tobytes())


def _parts(noted: Sequence[Any], rows: np.ndarray) -> Indexes:
    """The indexes that are kept together, of what is noted of them and their rows."""
    counts, skipped, firsts = noted
    left_out = {number: Skipped(count, first) for number, count, first in skipped}
    known = dict(firsts)
    starts = [0, *itertools.accumulate(counts)]
    each = [
        Index(count, left_out.get(number) or Skipped(), known.get(number) or {}, rows[start : start + count])
        for number, (count, start) in enumerate(zip(counts, starts))
    ]
    return Indexes(each, rows)


def of(shard: Shard, id_column: str | None, forgiving: bool, reading: Reading, tiny: int = 0) -> Index:
    """The index of a shard: from the cache, or made by one pass over it and kept there, unless it has `tiny` bytes at most. Two processes may
    make it at once.

    Raises:
      UserError: a record that is broken, unless `forgiving`; then still where none can be read.
    """
    key = cache.digest("index-3", shard.key, id_column or "", reading.identity) if shard.key else ""
    path = cache.root() / "records" / key / "rows"
    noted = _noted(path) if key and cache.used(path, shard.name) else None
    rows: np.ndarray | pathlib.Path = path
    if noted is None and key and not tiny:
        noted = []
        _keep(path, shard.name, lambda to: noted.extend(_scan(shard, id_column, forgiving, reading, to)), noted)
    elif noted is None:
        with tempfile.NamedTemporaryFile() as temporary:
            noted = _scan(shard, id_column, forgiving, reading, pathlib.Path(temporary.name))
            if not key or os.path.getsize(temporary.name) <= tiny:
                rows = np.fromfile(temporary.name, ROW)
            else:
                _keep(path, shard.name, lambda to: shutil.copyfile(temporary.name, to), noted)
    count, first, firsts = noted[:3]
    length = len(rows) if isinstance(rows, np.ndarray) else path.stat().st_size // ROW.itemsize
    index = Index(length, Skipped(count, first), firsts, rows)
    _check(shard, index, forgiving)
    return index


def _keep(path: pathlib.Path, of_what: str, fill: Callable[[pathlib.Path], None], noted: list[Any]) -> None:
    """Writes rows and what is known beside them, which `noted` has once `fill` has written the rows."""

    # What is known beside the rows first: these stand for both.
    def write(temporary: pathlib.Path) -> None:
        fill(temporary)
        text = json.dumps([*noted, cache.sha256(temporary)])
        cache.write_atomic(path.with_name("skipped.json"), lambda t: t.write_text(text, encoding="utf-8"))

    cache.write_atomic(path, write, of_what)


def _check(shard: Shard, index: Index, forgiving: bool) -> None:
    """Raises UserError for records that are broken, unless `forgiving`; then still where none can be read."""
    skipped = index.skipped
    if skipped.count and not forgiving:
        raise UserError(f"{shard.name}, {skipped.first[0]}{HINT}")
    if not index.count and skipped.count:
        raise UserError(
            f"{shard.name}: none of its {skipped.count} records can be read; the first is {skipped.first[0]}"
        )


def _noted(path: pathlib.Path) -> list[Any] | None:
    """What is known beside the rows that are kept here; None where they are damaged."""
    try:
        noted = json.loads(path.with_name("skipped.json").read_bytes())
        large = path.stat().st_size > _LARGE
        return noted if noted[3] == (checked.sha256(path) if large else cache.sha256(path)) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _scan(shard: Shard, id_column: str | None, forgiving: bool, reading: Reading, path: pathlib.Path) -> list[Any]:
    """Writes the rows; returns what is known beside them: how many records are left out, the first of these, and `Index.firsts`."""
    skipped, firsts, count = Skipped(), Firsts(reading.watched), 0
    with open(path, "wb", buffering=1 << 20) as rows:
        for start, end, number, record in shard.scan(reading, id_column):
            try:
                if isinstance(record, Broken):
                    raise record
                identity = values.id_digest(record.get(id_column) if id_column else None)
                content = values.digest(reading.content(record))
                texts = reading.texts(record)
                said = values.texts_digest(texts) if texts else content
                rows.write(_PACK.pack(start, end, number, content, said, identity))
                firsts.note(count, record)
                count += 1
            except Broken as e:
                place = e.place or shard.place(number)
                if not forgiving:
                    raise UserError(f"{shard.name}, {place}: {e}{HINT}") from None
                skipped.add(place, str(e))
    return [skipped.count, skipped.first, firsts.found]
