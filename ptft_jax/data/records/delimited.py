"""`csv:` rows of .csv (commas) and .tsv (tabs) files with a header. Every cell is a text."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.data.records.spans import SpanReader, refuse_binary, undecodable
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    return file_source(reference, broken, DELIMITERS, CsvFile)


class CsvFile:
    """A shard of rows, quoted as in RFC 4180: cells may hold delimiters, doubled quotes and line ends."""

    def __init__(self, file: files.File):
        self.name = file.name
        self._file = file
        with open(file.path, "rb") as f:
            refuse_binary(f.read(4096), file.name)
        self._delimiter = DELIMITERS.get(files.suffix(file.name), ",")
        self._header = self._read_header()
        self.key = f"csv {self._delimiter} {file.digest}"
        self.files = file.noted()

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        with open(self._file.path, "rb") as f:
            self._file.check(f.fileno())
            rows = _Rows(f, self._delimiter, self.name)
            next(rows)
            for start, end, number, row in rows:
                if isinstance(row, Broken):
                    yield Found(start, end, number, row)
                elif len(row) != len(self._header):
                    reason = f"{_count(len(row), 'cell')}, and the header has {len(self._header)}"
                    yield Found(start, end, number, Broken(reason))
                else:
                    yield Found(start, end, number, dict(zip(self._header, row)))
            self._file.check(f.fileno())

    def open(self, reading: Reading) -> SpanReader:
        return SpanReader(self._file, self._parse)

    def check(self) -> None:
        self._file.check()

    def place(self, number: int) -> str:
        return f"line {number}"

    def _parse(self, data: bytes) -> Record:
        _lift_limit()
        row = next(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=self._delimiter, strict=True))
        return dict(zip(self._header, row))

    def _read_header(self) -> list[str]:
        with open(self._file.path, "rb") as f:
            _, _, number, header = next(_Rows(f, self._delimiter, self.name), (0, 0, 1, None))
        if header is None:
            raise files.NoRecords(f"{self.name}, line 1: no header")
        where = f"{self.name}, line {number}"
        if isinstance(header, Broken):
            raise UserError(f"{self.name}, {header.place or f'line {number}'}: {header}")
        if "" in header:
            raise UserError(f"{where}: column {header.index('') + 1} of the header has no name")
        repeated = next((column for column in header if header.count(column) > 1), None)
        if repeated is not None:
            raise UserError(f"{where}: the header has the column {repeated!r} twice")
        other = next((d for d in (";", "\t", "|", ",") if len(header) == 1 and d in header[0]), None)
        if other:
            raise UserError(
                f"{where}: one column called {header[0]!r}: expected cells between {self._delimiter!r}, and these look "
                f"like cells between {other!r} (tabs are for .tsv files)"
            )
        return header


class _Rows:
    """(start, end, line, cells or why there are none) of each row of a file; blank lines are passed over."""

    def __init__(self, file: io.BufferedReader, delimiter: str, name: str):
        _lift_limit()
        self._file, self._name = file, name
        self._at = self._line = 0
        self._problem: Broken | None = None
        self._reader = csv.reader(self._texts(), delimiter=delimiter, strict=True)

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> tuple[int, int, int, list[str] | Broken]:
        while True:
            start, number = self._at, self._line + 1
            if not start and self._file.peek(3).startswith(b"\xef\xbb\xbf"):
                self._file.read(3)
                self._at = start = 3
            try:
                row: list[str] | Broken = next(self._reader)
            except csv.Error as e:
                if "unexpected end of data" in str(e):
                    raise UserError(
                        f"{self._name}, line {number}: a quoted cell that starts in this row has no closing quote"
                    ) from None
                row = Broken(f"not a row of cells: {e}")
            if self._problem:
                row, self._problem = self._problem, None
            if row != []:
                return start, self._at, number, row

    def _texts(self) -> Iterator[str]:
        for line in self._file:
            self._line += 1
            self._at += len(line)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as e:
                # The row is read on, so that the next one starts where it should, and then refused.
                self._problem = undecodable(e, self._line)
                text = line.decode("utf-8", "replace")
            yield text


def _lift_limit() -> None:
    """csv refuses cells of more than 128 KiB unless told otherwise, once a process."""
    csv.field_size_limit(sys.maxsize)


def _count(n: int, unit: str) -> str:
    return f"{n} {unit}{'' if n == 1 else 's'}"
