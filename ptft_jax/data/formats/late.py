"""Columns that turn up late: which records are the first that have each, and what must not be left out by oversight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError

# Columns of questions and answers that say something to the model, whatever the format.
TELLING = ("context", "input", "system", "history", "tools", "functions")

Record = Mapping[str, Any]
Placed = Sequence[tuple[str, Record]]  # (place, record)


class Firsts:
    """Where columns turn up first in a sequence of records.

    Attributes:
      found: name -> index of the first record that has the column, that has a value there, and one that is not empty; -1 for
        none so far.
    """

    def __init__(self, names: Iterable[str]):
        self._open = set(names)
        self.found: dict[str, list[int]] = {}

    def note(self, index: int, record: Record) -> None:
        """Takes note of the next record."""
        for name in self._open.intersection(record):
            value = record[name]
            known = self.found.setdefault(name, [index, -1, -1])
            if known[1] < 0 and value is not None:
                known[1] = index
            if value:
                known[2] = index
                self._open.discard(name)

    def indices(self) -> list[int]:
        """Of all these records, ascending."""
        return sorted({index for known in self.found.values() for index in known if index >= 0})


def firsts(records: Any, names: Iterable[str], where: Callable[[int], str]) -> list[tuple[str, Record]]:
    """The records in which columns of these names turn up first. Those that know them (`ptft_jax.data.records`) are asked,
    others read once."""
    if hasattr(records, "firsts"):
        return records.firsts()
    noted = Firsts(names)
    for index in range(len(records)):
        noted.note(index, records[index])
    return [(where(index), records[index]) for index in noted.indices()]


def refuse_unread(name: str, columns: Mapping[str, str], records: Placed, allowed: Sequence[str]) -> None:
    """Raises UserError for a telling column that the format `name` does not read and that may not be left out."""
    for column in TELLING:
        if column in allowed or column in columns.values():
            continue
        for place, record in records:
            if record.get(column):
                raise UserError(
                    f"{place}: the format {name} does not read column {column!r}, which this record has: make it "
                    f"part of another column, or leave it out with unused={column} in the options of the source"
                )


def refuse_absent(absent: Mapping[str, str], records: Placed) -> None:
    """Raises UserError for a column that would be read if one of the first records had it: `absent`, name -> what it would
    be."""
    for place, record in records:
        for column in absent.keys() & record:
            if record[column] is not None:
                raise UserError(
                    f"{place}: column {column!r} is not among those of the first records: to use it, say "
                    f"{absent[column]}={column} in the options of the source; unused={column} leaves it out"
                )
