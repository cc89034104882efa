"""Files of runs and reports: JSON and JSON lines, read with errors that name the file, and written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ptft_jax.data import cache
from ptft_jax.errors import UserError


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file of a run says. Raises UserError, naming it, where it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as e:
        raise UserError(f"{path}: is damaged, it is not JSON: {e}") from e


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file in UTF-8; none where there is no file. A half-written last line (a kill) is no row.

    Raises:
      UserError: another line is not JSON.
    """
    if not path.exists():
        return []
    rows, broken = [], 0
    # Bytes, cut at b"\n" only: generated texts hold other line ends, and a kill may cut within a character.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            broken = broken or number
            continue
        if broken:
            raise UserError(f"{path}, line {broken}: is damaged, it is not JSON; lines after it are")
    return rows


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, as UTF-8, whole or not at all."""
    cache.write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def keep_text(path: pathlib.Path, text: str) -> None:
    """As `write_text`, but a file that has this text stays as it is: what was made of it goes by when it was written."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def keep_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """As `keep_text`, of JSON Lines: a row each."""
    keep_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    cache.write_atomic(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=_plain, ensure_ascii=False) + os.linesep)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return str(value)
