"""`arrayrecord:` ArrayRecord files, each record a JSON object in UTF-8, or (`content=text`) a plain text in UTF-8, which
becomes {"text": ...}."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.json_lines import Strict, parse
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError, nearest

SUFFIXES = (".array_record", ".arrayrecord")
CONTENTS = ("json", "text")
_AT_ONCE = 1024  # records read at once in a pass


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    content = reference.options.get("content", "json")
    if content not in CONTENTS:
        raise reference.error(f"content={content}: expected {' or '.join(CONTENTS)}{nearest(content, CONTENTS)}")
    return file_source(reference, broken, SUFFIXES, lambda file: ArrayRecordFile(file, content))


class ArrayRecordFile:
    """A shard of records, numbered from 0."""

    def __init__(self, file: files.File, content: str):
        self.name = file.name
        self._file, self._content = file, content
        self.key = f"arrayrecord {content} {file.digest}"
        self.files = file.noted()

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        reader, strict = self._reader(), Strict()
        count = reader.num_records()
        for start in range(0, count, _AT_ONCE):
            try:
                read = reader.read(start, min(start + _AT_ONCE, count))
            except RuntimeError as e:
                raise UserError(f"{self.name}: damaged: {str(e).splitlines()[0][:300]}") from e
            for number, data in enumerate(read, start):
                yield Found(0, 0, number, self.parse(strict, data))
        self._file.check()

    def open(self, reading: Reading) -> _Reader:
        return _Reader(self._file, self._reader(), self)

    def check(self) -> None:
        self._file.check()

    def place(self, number: int) -> str:
        return f"record {number}"

    def _reader(self) -> Any:
        from array_record.python import array_record_module

        reader = array_record_module.ArrayRecordReader(str(self._file.path))
        if not reader.ok():
            raise UserError(f"{self.name}: not an ArrayRecord file, or cut short")
        return reader

    def parse(self, strict: Strict, data: bytes) -> Record | Broken:
        """The record that these bytes are, or why they are none."""
        if self._content == "text":
            try:
                return {"text": data.decode("utf-8")}
            except UnicodeDecodeError as e:
                return Broken(f"not UTF-8 text (byte 0x{data[e.start]:02x} at {e.start})")
        found = parse(strict, data)
        if isinstance(found, Broken):
            return Broken(f"{found}; records that are plain text are read with content=text")
        return found


class _Reader:
    def __init__(self, file: files.File, reader: Any, shard: ArrayRecordFile):
        self._descriptor = files.Descriptor(file)
        self._reader, self._shard = reader, shard
        self._lock = threading.Lock()  # the reader keeps its place in the file

    def read(self, row: np.void) -> Record:
        with self._lock:
            data = self._reader.read([int(row["number"])])[0]
        self._descriptor.check()
        return self._shard.parse(Strict(), data)  # type: ignore[return-value]  # the index has none that is broken
