"""`jsonl:` an object a line (.jsonl, .ndjson, .json), or a .json file that is one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.looks import refuse_binary
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.data.records.spans import SpanReader, undecodable
from ptft_jax.data.records.values import Broken, Constant
from ptft_jax.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json")


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    return file_source(reference, broken, SUFFIXES, JsonFile)


class JsonFile:
    """A shard of JSON objects. A list is held in memory while its index is made; lines never are."""

    def __init__(self, file: files.File):
        self.name = file.name
        self._file = file
        is_list = files.suffix(file.name) == ".json" and _beginning(file).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(
            b"["
        )
        self._scan = _list if is_list else _lines
        self._unit = "object" if is_list else "line"
        self.key = f"json {self._unit} {file.digest}"
        self.files = file.noted()

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        refuse_binary(_beginning(self._file), self.name)
        yield from self._scan(self._file)

    def open(self, reading: Reading) -> SpanReader:
        return SpanReader(self._file, json.loads)

    def check(self) -> None:
        self._file.check()

    def place(self, number: int) -> str:
        return f"{self._unit} {number}"


def _beginning(file: files.File) -> bytes:
    with open(file.path, "rb") as f:
        return f.read(4096)


class Strict:
    """Parses a JSON value, and notes what Python's parser lets pass: repeated keys, and NaN (a `Constant`)."""

    def __init__(self):
        self.decoder = json.JSONDecoder(object_pairs_hook=self._pairs, parse_constant=Constant)
        self._problem = ""

    def check(self, value: Any) -> Record | Broken:
        problem, self._problem = self._problem, ""
        if not isinstance(value, dict):
            names = {list: "a list", str: "a text", type(None): "null", bool: "true or false"}
            return Broken(f"{names.get(type(value), 'a number')}, expected an object: {{...}}")
        return Broken(problem) if problem else value

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            self._problem = f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice"
        return found


def _lines(file: files.File) -> Iterator[Found]:
    strict, start = Strict(), 0
    with open(file.path, "rb") as f:
        file.check(f.fileno())
        for number, line in enumerate(f, 1):
            end = start + len(line)
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):  # the mark that some editors begin UTF-8 files with
                start, line = start + 3, line[3:]
            if not line.isspace() and line:
                yield Found(start, end, number, parse(strict, line.rstrip(b"\r\n"), number))
            start = end
        file.check(f.fileno())


def parse(strict: Strict, line: bytes, number: int = 1) -> Record | Broken:
    """The object that a line is, or why it is none; `number` is that of the line."""
    try:
        value = strict.decoder.decode(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        return undecodable(e, number)
    except json.JSONDecodeError as e:
        strict.check(None)
        lone = "; lines end with a line feed, not with a carriage return alone" if b"\r" in line else ""
        return Broken(f"not JSON: {e.msg}{lone}", f"line {number}, column {e.colno}")
    except RecursionError:
        strict.check(None)
        return Broken("values nested too deep")
    except ValueError as e:  # a number of more digits than Python reads
        strict.check(None)
        return Broken(f"not JSON: {e}")
    return strict.check(value)


def _list(file: files.File) -> Iterator[Found]:
    with open(file.path, "rb") as f:
        file.check(f.fileno())
        data = f.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UserError(f"{file.name}, {undecodable(e, line).place}: {undecodable(e, line)}") from None
    strict, space = Strict(), json.decoder.WHITESPACE
    offset, behind = (3 if data.startswith(b"\xef\xbb\xbf") else 0), 0  # bytes before text[behind]
    at = space.match(text, text.index("[") + 1).end()
    number = 0
    try:
        while text[at : at + 1] != "]" or number:
            number += 1
            value, end = strict.decoder.raw_decode(text, at)
            start = offset + len(text[behind:at].encode())
            offset, behind = start + len(text[at:end].encode()), end
            yield Found(start, offset, number, strict.check(value))
            at = space.match(text, end).end()
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = space.match(text, at + 1).end()
        at = space.match(text, at + 1).end()
        if at != len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except json.JSONDecodeError as e:
        raise UserError(f"{file.name}, line {e.lineno}, column {e.colno}: not JSON: {e.msg}") from None
    except (RecursionError, ValueError) as e:
        raise UserError(f"{file.name}, object {number}: cannot be read: {e}") from None
