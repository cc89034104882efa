"""Records that are stretches of bytes of a text file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptft_jax.data.records import files
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.values import Broken


class SpanReader:
    """Reads the bytes of a record and makes it of them."""

    def __init__(self, file: files.File, parse: Callable[[bytes], Record]):
        self._descriptor = files.Descriptor(file)
        self._parse = parse

    def read(self, row: np.void) -> Record:
        return self._parse(self._descriptor.read(int(row["start"]), int(row["end"])))


def undecodable(error: UnicodeDecodeError, line: int) -> Broken:
    """What to say of bytes that are not UTF-8, in this line."""
    data, at = error.object, error.start
    begin = data.rfind(b"\n", 0, at) + 1
    column = len(data[begin:at].decode("utf-8")) + 1
    return Broken(
        f"not UTF-8 text (byte 0x{data[at]:02x}): this line is in another encoding; convert the file first",
        f"line {line}, column {column}",
    )
