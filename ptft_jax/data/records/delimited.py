"""`csv:` rows of .csv (commas) and .tsv (tabs) files with a header. Every cell is a text."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files, looks, quoting
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.data.records.spans import SpanReader, undecodable
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError, nearest

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_START = 1 << 16  # bytes of a file by which it is told what it looks like


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    option = reference.options.get("quoting")
    if option not in (None, "yes", "no"):
        raise reference.error(f"quoting={option}: expected yes or no{nearest(option, ('yes', 'no'))}")

    def shard(file: files.File) -> CsvFile:
        with open(file.path, "rb") as f:
            start = f.read(_START)
            looks.refuse_binary(start[:4096], file.name)
            if looks.is_json_lines(start, iter(lambda: f.read(files.BLOCK), b"")):
                looks.refuse_json(reference, file.name)
        return CsvFile(file, option)

    return file_source(reference, broken, DELIMITERS, shard)


class CsvFile:
    """A shard of rows. Where they are quoted (see `quoting`) it is as in RFC 4180: cells may hold delimiters and doubled
    quotation marks, and line ends."""

    def __init__(self, file: files.File, option: str | None = None):
        self.name = file.name
        self._file = file
        self._delimiter = DELIMITERS.get(files.suffix(file.name), ",")
        self._quoting = quoting.of(file, self._delimiter, option)
        self._header = self._read_header()
        self.key = f"csv {self._delimiter} {self._quoting} {file.digest}"
        self.files = file.noted()

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        with open(self._file.path, "rb") as f:
            self._file.check(f.fileno())
            rows = _rows(f, self._delimiter, self._quoting, self.name)
            next(rows)
            for start, end, number, row in rows:
                if isinstance(row, Broken):
                    yield Found(start, end, number, row)
                elif len(row) != len(self._header):
                    reason = f"{_count(len(row), 'cell')}, and the header has {len(self._header)}"
                    if self._quoting == quoting.NONE:
                        reason += (
                            "; quotation marks are text here: quoting=yes in the options of the source, if they are not"
                        )
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
        if self._quoting in (quoting.NONE, quoting.PLAIN):
            row = _split(data, self._delimiter)
        else:
            _lift_limit()
            text = io.StringIO(data.decode("utf-8"), newline="")
            row = next(csv.reader(text, delimiter=self._delimiter, strict=True))
        return dict(zip(self._header, row))

    def _read_header(self) -> list[str]:
        with open(self._file.path, "rb") as f:
            rows = _rows(f, self._delimiter, self._quoting, self.name)
            _, _, number, header = next(rows, (0, 0, 1, None))
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


Row = tuple[int, int, int, list[str] | Broken]  # start, end, line, cells or why there are none


def _rows(file: io.BufferedReader, delimiter: str, how: str, name: str) -> Iterator[Row]:
    """The rows of a file; blank lines are passed over."""
    if how in (quoting.NONE, quoting.PLAIN):
        return _lines(file, delimiter)
    return _Rows(file, delimiter, name)


def _lines(file: io.BufferedReader, delimiter: str) -> Iterator[Row]:
    """A row a line."""
    start = 0
    for number, line in enumerate(file, 1):
        end = start + len(line)
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):  # the mark that some editors begin UTF-8 files with
            start, line = start + 3, line[3:]
        if body := quoting.without_end(line):
            try:
                yield start, end, number, _unfit(body) or _split(body, delimiter)
            except UnicodeDecodeError as e:
                yield start, end, number, undecodable(e, number)
        start = end


def _split(line: bytes, delimiter: str) -> list[str]:
    return quoting.without_end(line).decode("utf-8").split(delimiter)


def _unfit(line: bytes) -> Broken | None:
    """Why a line, without its end, cannot be a row of text."""
    if b"\0" in line:
        return Broken("a zero byte, which no text has")
    if b"\r" in line:
        return Broken("a carriage return amid a row: lines end with a line feed; convert the file first")
    return None


class _Rows:
    """The rows of a file whose cells are quoted."""

    def __init__(self, file: io.BufferedReader, delimiter: str, name: str):
        _lift_limit()
        self._file, self._name = file, name
        self._at = self._line = 0
        self._problem: Broken | None = None
        self._reader = csv.reader(self._texts(), delimiter=delimiter, strict=True)

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> Row:
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
                row = _unfit(b"\r") if "new-line character" in str(e) else Broken(f"not a row of cells: {e}")
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
            if b"\0" in line:
                self._problem = _unfit(line)
            yield text


def _lift_limit() -> None:
    """csv refuses cells of more than 128 KiB unless told otherwise, once a process."""
    csv.field_size_limit(sys.maxsize)


def _count(n: int, unit: str) -> str:
    return f"{n} {unit}{'' if n == 1 else 's'}"
