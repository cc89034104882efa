"""Whether the cells of a file of delimited rows are quoted.

In .csv files they are (RFC 4180). Of .tsv files many are not, as tabs and line ends do not occur in their cells: there a cell
that happens to start with a quotation mark would swallow all up to the next one, line after line. So such a file is quoted
only where every cell that starts with a mark also ends with one in the same line, marks within it doubled.
"""

from __future__ import annotations

import re

from ptft_jax.data import cache
from ptft_jax.data.records.files import File

LINES = "lines"  # quoted, and cells may hold line ends
LINE = "line"  # quoted, a row a line
NONE = "none"  # quotation marks are text
PLAIN = "plain"  # no cell starts with one: the same to all


def of(file: File, delimiter: str, option: str | None) -> str:
    """How the cells of a file are quoted. `option`: "yes", "no", or None where the user does not say."""
    if option is not None or delimiter != "\t":
        return NONE if option == "no" else LINES
    path = cache.root() / "quoting" / cache.digest("quoting-1", file.digest)
    if known := cache.noted(path):
        return known.decode()
    found = _found(file, delimiter.encode())
    file.check()
    cache.write_atomic(path, lambda temporary: temporary.write_text(found, encoding="utf-8"))
    return found


def _found(file: File, delimiter: bytes) -> str:
    tab = re.escape(delimiter)
    cell = rb'(?:"(?:[^"]|"")*"|[^"' + tab + rb"][^" + tab + rb"]*|)"
    starts, row = re.compile(rb"(?:^|" + tab + rb')"'), re.compile(cell + rb"(?:" + tab + cell + rb")*")
    found = PLAIN
    with open(file.path, "rb") as f:
        for number, line in enumerate(f):
            if b'"' not in line:
                continue
            body = without_end(line.removeprefix(b"\xef\xbb\xbf") if not number else line)
            if starts.search(body):
                found = LINE
                if not row.fullmatch(body):
                    return NONE
    return found


def without_end(line: bytes) -> bytes:
    """A line but for its end."""
    return line.removesuffix(b"\n").removesuffix(b"\r")
