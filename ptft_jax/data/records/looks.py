"""What a file looks like, by its name and its first bytes: one that is of another kind than its source is a question, not data."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable

from ptft_jax.data.records import files
from ptft_jax.data.records.reference import AS_NAMED, SUFFIXES, Reference
from ptft_jax.errors import UserError

_LINES = 5  # that are looked at

# How files of other kinds begin, and what is to be said of them.
_BEGINNINGS = {
    b"\x1f\x8b\x08": "compressed with gzip: its name has to end with .gz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: its name has to end with .zst",
    b"\xfd7zXZ\x00": "compressed with xz: its name has to end with .xz",
    b"PK\x03\x04": f"a zip archive: unpack it first (compressed files may end with {', '.join(files.COMPRESSED)})",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: unpack it first (compressed files may end with {', '.join(files.COMPRESSED)})",
    b"\x04\x22\x4d\x18": f"compressed with LZ4, which is not read: use one of {', '.join(files.COMPRESSED)}",
    b"PAR1": "a Parquet file: did you mean parquet:?",
    b"ARROW1": "an Arrow file: did you mean arrow:?",
    b"\xff\xff\xff\xff": "an Arrow stream, it seems: did you mean arrow:?",
    b"SQLite format 3\x00": "an SQLite database: export its table, to CSV or JSON lines",
    b"%PDF-": "a PDF: extract its text first",
}
_BZIP2 = b"1AY&SY"  # behind BZh and a digit
_MARKS = re.compile(rb'\\.|["{}\[\]\n]', re.DOTALL)  # what decides where a JSON value ends
_CLOSING = {b"{": b"}", b"[": b"]"}
_BETWEEN = re.compile(rb"[\s\w,:+.-]*")  # what stands outside texts: numbers, names of constants


def refuse_binary(start: bytes, name: str) -> None:
    """Raises UserError if a file that starts with these bytes is no text in UTF-8."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name}: UTF-16 text; convert it to UTF-8 first")
    if start.startswith(b"BZh") and start[4:10] == _BZIP2:
        raise UserError(f"{name}: compressed with bzip2: its name has to end with .bz2")
    for beginning, what in _BEGINNINGS.items():
        if start.startswith(beginning):
            raise UserError(f"{name}: {what}")
    refuse_zero(start, name)


def refuse_zero(block: bytes, name: str, offset: int = 0) -> None:
    """Raises UserError if there is a zero byte, which no text has, in a block of a file that begins at an offset."""
    if b"\0" in block:
        raise UserError(f"{name}: binary, not text (a zero byte at offset {offset + block.index(0)})")


def refuse_other_names(reference: Reference, names: Iterable[str]) -> None:
    """Raises UserError where a file's ending says that it is of another kind than the source, unless that says
    `content=KIND`. Endings of texts say nothing: what they hold may be anything."""
    if "content" in reference.options:
        return
    by_ending = {name: SUFFIXES.get(files.suffix(name), "text") for name in names}
    for name, other in by_ending.items():
        if other not in ("text", reference.kind):
            every = set(by_ending.values()) == {other}
            raise _question(reference, other, f"{name} is {_one(other)} by its ending", every)


def refuse_json(reference: Reference, name: str) -> None:
    """Raises UserError for a file of texts or rows whose first lines are JSON objects (`is_json_lines`), unless the source says
    `content=KIND`."""
    if "content" not in reference.options:
        raise _question(reference, "jsonl", f"{name} holds lines of JSON", reference.name == name, name)


def is_json_lines(start: bytes, more: Iterable[bytes] = ()) -> bool:
    """Whether the first lines of a text are JSON objects. `start` is its beginning, and alone looked at, unless it ends within the first
    line; of `more`, the blocks after it, as many are taken as that line has, and none is kept."""
    start = start.removeprefix(b"\xef\xbb\xbf")
    lines = start.split(b"\n")
    last = lines.pop()  # may be cut
    found = [line for line in lines if line.strip()][:_LINES]
    if found:
        return all(map(_is_object, found))
    if last.strip() and not last.lstrip().startswith(b"{"):
        return False
    return _is_object(last) or _is_long_object(itertools.chain([last], more))


def _is_long_object(blocks: Iterable[bytes]) -> bool:
    """Whether a text begins with a line that is an object with some key, as far as its texts and brackets tell."""
    closing, marks, in_text, rest = bytearray(), 0, False, b""
    for block in blocks:
        data, end = rest + block, 0
        size = len(data) - (len(data) - len(data.rstrip(b"\\"))) % 2
        rest = data[size:]  # escapes what the next block begins with
        for mark in _MARKS.finditer(data, 0, size):
            sign, between, end = mark[0], data[end : mark.start()], mark.end()
            marks += not in_text
            if in_text:
                if sign == b"\n":
                    return False
                in_text = sign != b'"'
            elif not closing:  # before the object, and behind it
                if between.strip() or (marks > 1 or sign != b"{"):
                    return marks > 1 and sign == b"\n" and not between.strip()
                closing += b"}"
            elif not _BETWEEN.fullmatch(between) or (marks == 2 and (between.strip() or sign != b'"')):
                return False
            elif sign == b'"':
                in_text = True
            elif sign in _CLOSING:
                closing += _CLOSING[sign]
            elif sign[0] != closing.pop():  # also a newline, and an escape
                return False
        left = data[end:size]
        if not in_text and (left.strip() if not closing or marks == 1 else not _BETWEEN.fullmatch(left)):
            return False
    return marks > 1 and not (in_text or closing or rest)


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found)


def _one(kind: str) -> str:
    names = {"jsonl": "JSON", "csv": "a table of delimited cells", "parquet": "Parquet", "arrow": "Arrow"}
    return names.get(kind, kind)


def _question(reference: Reference, other: str, why: str, every: bool, name: str = "") -> UserError:
    """`every`: whether all files of the source look so; `name`: a file that does, whose ending may say otherwise."""
    option = "" if SUFFIXES.get(files.suffix(name), "text") in ("text", other) else f"?content={other}"
    meant = f"did you mean {other}:{reference.name}{option}?" if every else f"did you mean {other}: for it?"
    said = ""
    if reference.kind in AS_NAMED:
        joint = "&" if reference.options else "?"
        said = f" If it is read as {reference.kind} on purpose, say so: {reference.text}{joint}content={reference.kind}"
    return reference.error(f"{why}: {meant}{said}")
