"""Reading a world's file, with what is wrong in it by line and field."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ptft_jax.data import cache
from ptft_jax.errors import UserError, nearest
from ptft_jax.world.spec import PERSON, Attribute, Eras, Size, Spec, before_value, fields

BUILT_IN = "towns.toml"
NAMES = ("first", "last")  # the tables that names are made of
_SIZES = {"c": Size(), "h": Size(20000, 3000, 10000, 75)}


def read(path: str = "") -> Spec:
    """The world that a file describes, "" = the one that comes with the package. Raises UserError: file, line, and
    entry."""
    if path:
        try:
            data = pathlib.Path(path).expanduser().read_bytes()
        except OSError as e:
            raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e
    else:
        data = importlib.resources.files("ptft_jax.world").joinpath(BUILT_IN).read_bytes()
    return _parsed(path, data)


@functools.lru_cache(maxsize=8)
def _parsed(path: str, data: bytes) -> Spec:
    return _File(path, data).spec()


class _File:
    """A world's file while it is read."""

    def __init__(self, path: str, data: bytes):
        self.path, self.origin = path, path or BUILT_IN
        try:
            self.text = data.decode("utf-8")
            self.values = tomllib.loads(self.text)
        except UnicodeDecodeError as e:
            raise UserError(f"{self.origin}: not UTF-8 text: {e}") from e
        except (ValueError, RecursionError) as e:
            raise UserError(f"{self.origin}: not TOML: {e}") from e
        self.digest = cache.digest(data)
        self.tables: dict[str, tuple[str, ...]] = {}

    def spec(self) -> Spec:
        self.known(self.values, ("name", "people", "sizes", "eras", "tables", "attributes"), "")
        name = self.text_of(self.values, "name", "") if "name" in self.values else pathlib.Path(self.origin).stem
        people, tables = self.table("people"), self.table("tables")
        self.known(people, (*NAMES, "pronoun"), "people")
        for where, values in (("people", {part: people.get(part) for part in NAMES}), ("tables", tables)):
            for table, entries in values.items():
                if table in self.tables:
                    self.fail(f"{where}.{table}", f"{' and '.join(NAMES)} are the tables of names", table)
                self.tables[table] = self.entries(entries, f"{where}.{table}")
        pronoun = self.text_of(people, "pronoun", "people") if "pronoun" in people else "this person"
        attributes = {n: self.attribute(n, value) for n, value in self.table("attributes").items()}
        if not attributes:
            self.fail("attributes", "there is none: nothing is true of anybody")
        self.check_links(attributes)
        return Spec(
            self.origin,
            self.path,
            self.digest,
            name,
            pronoun,
            self.sizes(),
            self.numbers(Eras, self.table("eras", {}), "eras"),
            self.tables,
            attributes,
        )

    def table(self, field: str, missing: Any = None) -> Mapping[str, Any]:
        value = self.values.get(field, missing)
        if not isinstance(value, Mapping):
            self.fail(field, "expected a table" if field in self.values else f"is missing: expected a table [{field}]")
        return value

    def entries(self, value: Any, field: str) -> tuple[str, ...]:
        """The values of a table: texts, or the numbers from one to another."""
        key = field.rpartition(".")[2]
        if isinstance(value, Mapping) and set(value) == {"from", "to"} and all(type(v) is int for v in value.values()):
            value = [str(number) for number in range(value["from"], value["to"] + 1)]
        if value is None:
            self.fail(field, "is missing: expected a list of texts", field.partition(".")[0])
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
            self.fail(field, "expected a list of texts that are not empty, or { from = NUMBER, to = NUMBER }", key)
        if not value:
            self.fail(field, "an empty table: nobody could have a value", key)
        if len(value) < 2 and field.startswith("tables."):
            self.fail(field, "a single value, which would be true of everybody: expected 2 or more", key)
        for entry in value:
            if value.count(entry) > 1:
                self.fail(field, f"{entry!r} is there twice", json.dumps(entry, ensure_ascii=False), key, 2)
            if entry != entry.strip() or "{" in entry or "}" in entry:
                self.fail(field, f"{entry!r}: expected a text without braces, and without spaces around it", entry)
        return tuple(value)

    def attribute(self, name: str, value: Any) -> Attribute:
        field = f"attributes.{name}"
        if not isinstance(value, Mapping):
            self.fail(field, "expected a table", name)
        known = [one.name for one in dataclasses.fields(Attribute) if one.name != "name"]
        self.known(value, known, field)
        if name == PERSON or not name.isidentifier():
            self.fail(field, f"expected a word that templates can name in braces, other than {PERSON!r}", name)
        of = self.text_of(value, "of", field) if "of" in value else ""
        table = self.text_of(value, "table", field) if "table" in value else name
        tables = [one for one in self.tables if one not in NAMES]
        if table not in tables:
            self.fail(f"{field}.table", f"there is no table {table!r}{nearest(table, tables)}", field)
        subject = of or PERSON
        statements = self.templates(value, "statements", field, (subject, name))
        questions = self.templates(value, "questions", field, (subject,))
        if not any(before_value(one, name) for one in statements):
            problem = f"expected a statement that names {{{subject}}} and then {{{name}}}, which recall is measured by"
            self.fail(f"{field}.statements", problem, statements[0])
        held_out = self.number(value, "held_out", field) if "held_out" in value else Attribute.held_out
        if held_out >= len(questions):
            problem = f"{held_out} of {len(questions)} questions held out leaves none to tune on; expected more questions, or less"
            self.fail(f"{field}.held_out", problem, field)
        hops = self.templates(value, "hops", field, (PERSON,)) if "hops" in value else ()
        if hops and not of:
            self.fail(f"{field}.hops", "is for an attribute that follows from another (of)", field)
        changes = value.get("changes", False)
        if type(changes) is not bool or (changes and of):
            self.fail(f"{field}.changes", "expected true or false; of what follows from another, false", field)
        return Attribute(name, table, statements, questions, held_out, of, hops, changes)

    def templates(self, value: Mapping[str, Any], name: str, field: str, wanted: Sequence[str]) -> tuple[str, ...]:
        """Templates that name these, each once, and nothing else."""
        found, place = value.get(name), f"{field}.{name}"
        if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
            self.fail(place, "expected a list of texts, 1 or more", field)
        for one in found:
            try:
                named = fields(one)
            except ValueError as e:
                self.fail(place, f"{one!r}: expected a name in braces, and no others{f': {e}' if str(e) else ''}", one)
            for missing in wanted:
                if missing not in named:
                    near = next((nearest(other, wanted) for other in named if other not in wanted), "")
                    self.fail(place, f"{one!r} does not name {{{missing}}}{near}", one)
            for other in named:
                if other not in wanted or named.count(other) > 1:
                    problem = "twice" if other in wanted else f"which says more than {' and '.join(wanted)}"
                    self.fail(place, f"{one!r} names {{{other}}} {problem}", one)
            if found.count(one) > 1:
                self.fail(place, f"{one!r} is there twice", json.dumps(one, ensure_ascii=False), nth=2)
        return tuple(found)

    def check_links(self, attributes: Mapping[str, Attribute]) -> None:
        for name, one in attributes.items():
            plain = [other for other, found in attributes.items() if not found.of]
            if one.of and one.of not in plain:
                problem = f"expected an attribute of people, one of {', '.join(plain)}{nearest(one.of, plain)}"
                self.fail(f"attributes.{name}.of", problem, f"attributes.{name}")

    def sizes(self) -> dict[str, Size]:
        found = dict(_SIZES)
        for name, value in self.table("sizes", {}).items():
            field = f"sizes.{name}"
            if not isinstance(value, Mapping):
                self.fail(field, "expected a table", field)
            tables = value.get("tables", {})
            size = self.numbers(Size, {k: v for k, v in value.items() if k != "tables"}, field)
            if not isinstance(tables, Mapping):
                self.fail(f"{field}.tables", "expected { TABLE = NUMBER, ... }", field)
            for table, count in tables.items():
                if table not in self.tables:
                    self.fail(f"{field}.tables.{table}", f"there is no such table{nearest(table, self.tables)}", field)
                if type(count) is not int or count < 1:
                    self.fail(f"{field}.tables.{table}", f"{count!r}: expected a number, 1 or more", field)
            if size.core < 10:
                self.fail(f"{field}.core", f"{size.core}: expected 10 or more, of whom some are held out", field)
            found[name] = dataclasses.replace(size, tables=dict(tables))
        return found

    def numbers(self, kind: type[Any], value: Mapping[str, Any], field: str) -> Any:
        known = [one.name for one in dataclasses.fields(kind) if one.name != "tables"]
        self.known(value, known, field)
        found = kind(**{name: self.number(value, name, field) for name in value})
        for name in ("before", "exposures"):
            if getattr(found, name, 1) < 1:
                self.fail(f"{field}.{name}", "0: expected 1 or more", field)
        return found

    def number(self, value: Mapping[str, Any], name: str, field: str) -> int:
        if type(value[name]) is not int or value[name] < 0:
            self.fail(f"{field}.{name}", f"{value[name]!r}: expected a whole number, 0 or more", field)
        return value[name]

    def text_of(self, value: Mapping[str, Any], name: str, field: str) -> str:
        if not isinstance(value[name], str) or not value[name].strip():
            self.fail(f"{field}.{name}".lstrip("."), f"{value[name]!r}: expected a text", name)
        return value[name]

    def known(self, value: Mapping[str, Any], names: Sequence[str], field: str) -> None:
        for name in value:
            if name not in names:
                place = f"{field}.{name}".lstrip(".")
                self.fail(place, f"no such entry; there are {', '.join(names)}{nearest(name, names)}", name)

    def fail(self, field: str, problem: str, needle: str = "", after: str = "", nth: int = 1) -> NoReturn:
        """Raises UserError for an entry; its line is that of the nth place of `needle`, behind the key `after`."""
        lines = self.text.splitlines()
        start = next((n for n, line in enumerate(lines) if after and line.startswith(after)), 0)
        for number, line in enumerate(lines[start:], start + 1):
            nth -= line.count(needle) if needle else 0
            if needle and nth <= 0:
                raise UserError(f"{self.origin}, line {number}: {field}: {problem}")
        raise UserError(f"{self.origin}: {field}: {problem}")
