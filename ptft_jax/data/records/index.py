"""What is known of the records of a file after one pass over it: where each lies, its digest, and what is broken."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.records import values
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError

# A record: bytes [start, end) of the file where it lies there, its line or position (what `Shard.place` is told), its
# digest and that of its id.
ROW = np.dtype(
    [("start", "<i8"), ("end", "<i8"), ("number", "<i8"), ("high", "<u8"), ("low", "<u8"), ("id", "<u8")]
)  # fmt: skip
_PACK = struct.Struct("<qqq16s8s")
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
    """

    name: str
    key: str

    def scan(self) -> Iterator[Found]: ...

    def open(self) -> Reader: ...

    def place(self, number: int) -> str:
        """ "line 12": what a person would look up inside it."""
        ...


@dataclasses.dataclass(frozen=True)
class Index:
    """What one pass over a shard found.

    Attributes:
      count: of the records that can be read.
      skipped: of those that cannot; places without the name of the shard.
    """

    count: int
    skipped: Skipped
    _kept: pathlib.Path | np.ndarray

    def rows(self) -> np.ndarray:
        """[count] of `ROW`. Memory-mapped, which keeps a file open for as long as something refers to it."""
        if isinstance(self._kept, np.ndarray):
            return self._kept
        return np.memmap(self._kept, ROW, "r") if self.count else np.empty(0, ROW)


def of(shard: Shard, id_column: str | None, forgiving: bool) -> Index:
    """The index of a shard: from the cache, or made by one pass over it and kept there. Two processes may make it at once.

    Raises:
      UserError: no record in it, or one that is broken, unless `forgiving`.
    """
    if shard.key:
        path = cache.root() / "records" / cache.digest("index-1", shard.key, id_column or "") / "rows"
        if not path.exists():
            # The list of what is broken first: the rows stand for both.
            def write(temporary: pathlib.Path) -> None:
                skipped = _scan(shard, id_column, forgiving, temporary)
                text = json.dumps([skipped.count, skipped.first])
                cache.write_atomic(path.with_name("skipped.json"), lambda t: t.write_text(text))

            cache.write_atomic(path, write)
        count, first = json.loads(path.with_name("skipped.json").read_bytes())
        index = Index(path.stat().st_size // ROW.itemsize, Skipped(count, first), path)
    else:
        with tempfile.NamedTemporaryFile() as temporary:
            skipped = _scan(shard, id_column, forgiving, pathlib.Path(temporary.name))
            rows = np.fromfile(temporary.name, ROW)
        index = Index(len(rows), skipped, rows)
    skipped = index.skipped
    if skipped.count and not forgiving:
        raise UserError(f"{shard.name}, {skipped.first[0]}{HINT}")
    if not index.count:
        none = f"none of its {skipped.count} records can be read; the first is {(skipped.first or [''])[0]}"
        raise UserError(f"{shard.name}: {none if skipped.count else 'holds no record'}")
    return index


def _scan(shard: Shard, id_column: str | None, forgiving: bool, path: pathlib.Path) -> Skipped:
    skipped = Skipped()
    with open(path, "wb", buffering=1 << 20) as rows:
        for start, end, number, record in shard.scan():
            try:
                if isinstance(record, Broken):
                    raise record
                identity = values.id_digest(record.get(id_column) if id_column else None)
                rows.write(_PACK.pack(start, end, number, values.digest(record), identity))
            except Broken as e:
                place = e.place or shard.place(number)
                if not forgiving:
                    raise UserError(f"{shard.name}, {place}: {e}{HINT}") from None
                skipped.add(place, str(e))
    return skipped
