"""`parquet:` rows of Parquet files. A row group at a time is decoded; few are held."""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptft_jax.data.records import files, table
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.values import Broken, plain
from ptft_jax.errors import UserError, nearest

SUFFIXES = (".parquet",)
_GROUPS = 2  # decoded row groups held of a file


def open_split(reference: Reference, split: str, held_out: float, broken: str) -> table.Table:
    """The records of a split, see `opening.open_records`."""
    return table.open_files(
        reference, split, held_out, broken, SUFFIXES, lambda file: ParquetFile(file, reference.columns)
    )


class ParquetFile:
    """A shard of rows, numbered from 0."""

    def __init__(self, file: files.File, columns: tuple[str, ...] | None):
        self.name = file.name
        self._file, self._columns = file, columns
        self.key = f"parquet {columns} {file.digest}"
        check_columns(columns, self._parquet().schema_arrow.names, file.name)

    def scan(self) -> Iterator[Found]:
        try:
            parquet = self._parquet()
            number = 0
            for batch in parquet.iter_batches(1024, columns=self._columns and list(self._columns)):
                for record in records(batch):
                    yield Found(0, 0, number, record)
                    number += 1
            self._file.check()
        except (OSError, ValueError, KeyError, NotImplementedError) as e:  # pyarrow's errors are these
            raise UserError(f"{self.name}: cannot be read as Parquet: {e}") from e

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """What `datasets` notes in the Parquet files that it writes."""
        try:
            noted = json.loads((self._parquet().schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            features = noted["info"]["features"].items()
        except (ValueError, KeyError, TypeError, AttributeError):  # another's note, or none
            return {}
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }

    def open(self) -> _Reader:
        return _Reader(self._file, self._parquet(), self._columns)

    def place(self, number: int) -> str:
        return f"row {number}"

    def _parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self._file.path)
        except (OSError, pa.ArrowException) as e:
            raise UserError(f"{self.name}: not a Parquet file: {e}") from e


class _Reader:
    def __init__(self, file: files.File, parquet: Any, columns: tuple[str, ...] | None):
        self._file, self._parquet, self._columns = file, parquet, columns
        self._descriptor = files.Descriptor(file)
        groups = parquet.metadata
        self._ends = np.cumsum([groups.row_group(i).num_rows for i in range(groups.num_row_groups)])
        self._groups: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()  # pyarrow's reader of a file is for one thread at a time

    def read(self, row: np.void) -> Record:
        number = int(row["number"])
        group = int(np.searchsorted(self._ends, number, "right"))
        rows = self._group(group)
        return next(records(rows.slice(number - (int(self._ends[group]) - rows.num_rows), 1)))

    def _group(self, group: int) -> Any:
        with self._lock:
            if group not in self._groups:
                columns = self._columns and list(self._columns)
                self._groups[group] = self._parquet.read_row_group(group, columns=columns)
                self._descriptor.check()
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group]


def records(rows: Any) -> Iterator[Record | Broken]:
    """The records of a pyarrow Table or RecordBatch, of JSON's types."""
    for row in rows.to_pylist(maps_as_pydicts="strict"):
        try:
            yield {column: plain(value, column) for column, value in row.items()}
        except Broken as e:
            yield Broken(f"{e}; name the columns to read with columns=A,B")


def check_columns(columns: tuple[str, ...] | None, have: list[str], name: str) -> None:
    """Raises UserError for a wanted column that is not there, and for a column that is there twice."""
    for column in columns or ():
        if column not in have:
            raise UserError(f"{name}: no column {column!r}; it has {', '.join(have)}{nearest(column, have)}")
    repeated = next((column for column in have if have.count(column) > 1), None)
    if repeated is not None:
        raise UserError(f"{name}: the column {repeated!r} is there twice")
