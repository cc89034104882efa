"""What a file looks like, by its name and its first bytes: one that is of another kind than its source is a question, not data."""

from __future__ import annotations

import json
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
    b"ARROW1": "an Arrow file, which is not read: write it as Parquet",
    b"\xff\xff\xff\xff": "an Arrow stream, it seems, which is not read: write it as Parquet",
    b"SQLite format 3\x00": "an SQLite database: export its table, to CSV or JSON lines",
    b"%PDF-": "a PDF: extract its text first",
}
_BZIP2 = b"1AY&SY"  # behind BZh and a digit


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


def is_json_lines(start: bytes) -> bool:
    """Whether the first lines of a text, of which this is the beginning, are JSON objects."""
    lines = start.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(lines) > 1:
        del lines[-1]  # may be cut
    found = [line for line in lines if line.strip()][:_LINES]
    return bool(found) and all(map(_is_object, found))


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
