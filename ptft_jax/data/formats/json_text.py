"""Columns that hold a list as JSON in a text, as Parquet and CSV files often do where a table has no lists of tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError

Record = Mapping[str, Any]
MESSAGES, IDS = "messages", "ids"

# As a list of tables with a role begins, by JSON or by Python; quotes are escaped where each table is a text of its own.
_MESSAGES = re.compile(r"""\s*"?\s*\[\s*\\?['"]?\s*\{""")
_ROLE = re.compile(r"""['"](role|from)\\?['"]\s*:""")
_IDS = re.compile(r"\s*\[\s*-?\d+(\s*,?\s+-?\d+|\s*,\s*-?\d+)*\s*\]\s*")


def looks(value: Any, kind: str) -> bool:
    """Whether a value is a text, or a list of texts, that holds what could be messages, or ids."""
    if kind == MESSAGES and isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(v, str) and looks(f"[{v}]", kind) for v in value)
    if not isinstance(value, str):
        return False
    if kind == IDS:
        return _IDS.fullmatch(value) is not None
    return _MESSAGES.match(value) is not None and _ROLE.search(value, 0, 10_000) is not None


def columns(
    sample: Sequence[Record], kinds: Mapping[str, Collection[str]], where: Callable[[int], str]
) -> tuple[str, ...]:
    """The columns that hold JSON in every record that has them.

    Args:
      sample: the first records.
      kinds: column -> which of MESSAGES and IDS it may hold.
      where: index -> place of a record.

    Raises:
      UserError: a column that holds them in some records, and another thing in others.
    """
    found = []
    for column, possible in kinds.items():
        there = {i: record[column] for i, record in enumerate(sample) if record.get(column) is not None}
        for kind in possible:
            fits = {i: looks(value, kind) for i, value in there.items()}
            if not any(fits.values()):
                continue
            if not all(fits.values()):
                first, other = next(i for i in fits if fits[i]), next(i for i in fits if not fits[i])
                raise UserError(
                    f"{where(other)}: column {column!r} is not what it is in {where(first)}, {kind} as JSON in a text: write "
                    "both alike, or say format= in the options of the source to have texts read as they stand"
                )
            found.append(column)
            break
    return tuple(found)


def value(text: Any, column: str, where: str) -> list:
    """The list that a column holds as JSON. Raises UserError."""
    if isinstance(text, (list, tuple)) and all(isinstance(item, str) for item in text):
        return [_parsed(item, column, where) for item in text]
    made = _parsed(text, column, where)
    if isinstance(made, str):  # JSON of JSON
        made = _parsed(made, column, where)
    if isinstance(made, list) and made and all(isinstance(item, str) for item in made):
        made = [_parsed(item, column, where) for item in made]
    if not isinstance(made, list):
        raise UserError(f"{where}: column {column!r}: JSON of a {type(made).__name__}, expected a list")
    return made


def decoded(record: Record, coded: Collection[str], where: str) -> Record:
    """A record with the columns `coded` as what they hold. Raises UserError."""
    there = [column for column in coded if record.get(column) is not None]
    return {**record, **{column: value(record[column], column, where) for column in there}} if there else record


def question(sample: Sequence[Record], texts: Collection[str], where: Callable[[int], str]) -> None:
    """Raises UserError where a column that is to be read as text holds messages as JSON in all of the first records."""
    for column in texts:
        there = {i: record[column] for i, record in enumerate(sample) if record.get(column)}
        if there and all(looks(found, MESSAGES) for found in there.values()):
            raise UserError(
                f"{where(next(iter(there)))}: column {column!r} holds messages as JSON in a text: messages={column} in the "
                f"options of the source reads them, and format=text&text={column} takes them for text"
            )


def _parsed(text: Any, column: str, where: str) -> Any:
    if not isinstance(text, str):
        raise UserError(
            f"{where}: column {column!r} is a {type(text).__name__}, while the first records have JSON in a text there"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        python = " (it looks like Python's way to write a list)" if re.match(r"\s*\[?\s*\{\s*'", text) else ""
        raise UserError(f"{where}: column {column!r} is no JSON, of a list that it begins: {e}{python}") from e
