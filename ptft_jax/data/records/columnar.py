"""Files of tables whose rows lie in groups, Parquet's and Arrow's: a group at a time is decoded, few are held."""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.values import Broken, plain
from ptft_jax.errors import UserError, nearest

_GROUPS = 2  # decoded groups held of a file


class Groups(Protocol):
    """An open file.

    Attributes:
      schema: pyarrow's, of its columns.
      counts: rows of each group.
    """

    schema: Any
    counts: Sequence[int]

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """All rows in order, as RecordBatches or Tables of at most some thousands."""

    def group(self, number: int, columns: list[str] | None) -> Any:
        """The rows of a group, as a RecordBatch or a Table."""


class ColumnarFile:
    """A shard of rows, numbered from 0."""

    def __init__(
        self, file: files.File, columns: tuple[str, ...] | None, kind: str, opened: Callable[[files.File], Groups]
    ):
        """`opened` raises UserError where the file is no file of the kind."""
        self.name = file.name
        self._file, self._columns, self._kind, self._opened = file, columns, kind, opened
        self.key = f"{kind.lower()} {columns} {file.digest}"
        self.files = file.noted()
        have = opened(file).schema.names
        check_columns(columns, have, file.name)
        self._have = list(columns or have)

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        try:
            number = 0
            for batch in self._opened(self._file).batches(reading.needed(self._have, id_column)):
                for record in records(batch, reading):
                    yield Found(0, 0, number, record)
                    number += 1
            self._file.check()
        except (OSError, ValueError, KeyError, NotImplementedError) as e:  # pyarrow's errors are these
            raise UserError(f"{self.name}: cannot be read as {self._kind}: {e}") from e

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """What `datasets` notes in the files that it writes."""
        try:
            noted = json.loads((self._opened(self._file).schema.metadata or {}).get(b"huggingface", b"{}"))
            features = noted["info"]["features"].items()
        except (ValueError, KeyError, TypeError, AttributeError):  # another's note, or none
            return {}
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }

    def open(self, reading: Reading) -> _Reader:
        return _Reader(self._file, self._opened(self._file), self._columns, reading)

    def check(self) -> None:
        self._file.check()

    def place(self, number: int) -> str:
        return f"row {number}"


class _Reader:
    def __init__(self, file: files.File, opened: Groups, columns: tuple[str, ...] | None, reading: Reading):
        self._opened, self._columns, self._reading = opened, columns and list(columns), reading
        self._descriptor = files.Descriptor(file)
        self._ends = np.cumsum(opened.counts)
        self._groups: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()  # pyarrow's reader of a file is for one thread at a time

    def read(self, row: np.void) -> Record:
        number = int(row["number"])
        group = int(np.searchsorted(self._ends, number, "right"))
        rows = self._group(group)
        row = rows.slice(number - (int(self._ends[group]) - rows.num_rows), 1)
        return next(records(row, self._reading))  # type: ignore[return-value]  # the index has none that is broken

    def _group(self, group: int) -> Any:
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._opened.group(group, self._columns)
                self._descriptor.check()
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group]


def records(rows: Any, reading: Reading) -> Iterator[Record | Broken]:
    """The records of a pyarrow Table or RecordBatch, of JSON's types."""
    for row in rows.to_pylist(maps_as_pydicts="strict"):
        yield converted(row, reading)


def converted(row: Mapping[str, Any], reading: Reading) -> Record | Broken:
    """A record of JSON's types: without the values, in columns that are not read, that these have nothing for."""
    record: Record = {}
    for column, value in row.items():
        try:
            record[column] = plain(value, column)
        except Broken as e:
            if reading.reads(column):
                return Broken(f"{e}; name the columns to read with columns=A,B")
    return record


def check_columns(columns: tuple[str, ...] | None, have: list[str], name: str) -> None:
    """Raises UserError for a wanted column that is not there, and for a column that is there twice."""
    for column in columns or ():
        if column not in have:
            raise UserError(f"{name}: no column {column!r}; it has {', '.join(have)}{nearest(column, have)}")
    repeated = next((column for column in have if have.count(column) > 1), None)
    if repeated is not None:
        raise UserError(f"{name}: the column {repeated!r} is there twice")
