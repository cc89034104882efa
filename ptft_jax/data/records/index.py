"""What is known of the records of a file after one pass over it: where each lies, digests of it, which columns turn up
first where, and what is broken."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import struct
import tempfile
from collections.abc import Iterator, Mapping
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


def of(shard: Shard, id_column: str | None, forgiving: bool, reading: Reading) -> Index:
    """The index of a shard: from the cache, or made by one pass over it and kept there. Two processes may make it at once.

    Raises:
      UserError: a record that is broken, unless `forgiving`; then still where none can be read.
    """
    if shard.key:
        key = cache.digest("index-3", shard.key, id_column or "", reading.identity)
        path = cache.root() / "records" / key / "rows"
        if not cache.used(path, shard.name) or (noted := _noted(path)) is None:
            # What is known beside the rows first: these stand for both.
            def write(temporary: pathlib.Path) -> None:
                skipped, firsts = _scan(shard, id_column, forgiving, reading, temporary)
                text = json.dumps([skipped.count, skipped.first, firsts, cache.sha256(temporary)])
                cache.write_atomic(path.with_name("skipped.json"), lambda t: t.write_text(text, encoding="utf-8"))

            cache.write_atomic(path, write, shard.name)
            noted = json.loads(path.with_name("skipped.json").read_bytes())
        count, first, firsts, _ = noted
        index = Index(path.stat().st_size // ROW.itemsize, Skipped(count, first), firsts, path)
    else:
        with tempfile.NamedTemporaryFile() as temporary:
            skipped, firsts = _scan(shard, id_column, forgiving, reading, pathlib.Path(temporary.name))
            rows = np.fromfile(temporary.name, ROW)
        index = Index(len(rows), skipped, firsts, rows)
    skipped = index.skipped
    if skipped.count and not forgiving:
        raise UserError(f"{shard.name}, {skipped.first[0]}{HINT}")
    if not index.count and skipped.count:
        raise UserError(
            f"{shard.name}: none of its {skipped.count} records can be read; the first is {skipped.first[0]}"
        )
    return index


def _noted(path: pathlib.Path) -> list[Any] | None:
    """What is known beside the rows that are kept here; None where they are damaged."""
    try:
        noted = json.loads(path.with_name("skipped.json").read_bytes())
        large = path.stat().st_size > _LARGE
        return noted if noted[3] == (checked.sha256(path) if large else cache.sha256(path)) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _scan(
    shard: Shard, id_column: str | None, forgiving: bool, reading: Reading, path: pathlib.Path
) -> tuple[Skipped, dict[str, list[int]]]:
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
    return skipped, firsts.found
