"""Lists of images: tables whose rows have a path, or the bytes of an image, and a label."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.config.sources import SOURCES
from ptft_jax.data import cache
from ptft_jax.data.pictures.decoding import Image
from ptft_jax.data.pictures.shards import read
from ptft_jax.data.records.known import Known
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource
from ptft_jax.errors import UserError, few, nearest

KINDS = ("jsonl", "csv", "parquet", "arrow")
_USUAL = ("image", "img", "picture", "path", "file", "file_name", "filename")  # of a column of paths or images
_OWN = ("max_pixels", "image", "label", "classes", "examples", "format", "unused")  # options that are not the table's


def inner(reference: Reference, kind: str, broken: str) -> TableSource:
    """The table itself."""
    from ptft_jax.config.located import located

    options = {name: value for name, value in reference.options.items() if name not in _OWN}
    table = dataclasses.replace(reference, kind=kind, options=options, spec=SOURCES[kind])
    return located(SOURCES[kind].source)(table, broken)


@dataclasses.dataclass(frozen=True)
class Listed:
    """The rows of a split of a table, each with the bytes of its image."""

    rows: Any
    folder: pathlib.Path
    column: str
    fingerprint: str
    files: Mapping[str, str]
    class_names: Mapping[str, Sequence[str]]
    prefix: str
    checked: bool = False

    @classmethod
    def of(cls, table: TableSource, split: str, folder: pathlib.Path, reference: Reference) -> Listed:
        """The rows of a split; paths are meant from `folder`. Raises UserError where no column has images."""
        rows = table.whole(split)
        first = rows[0]
        column = reference.options.get("image") or next((name for name in _USUAL if name in first), "")
        if column not in first:
            named = (
                f"image={column}: no such column{nearest(column, first)}"
                if column
                else "no column of images or of their paths"
            )
            raise UserError(f"{rows.where(0)}: {named}; there are {few(map(str, first))}: name it with image=COLUMN")
        paths: dict[pathlib.Path, str] = {}
        for index in range(len(rows)):
            path = _path(rows[index].get(column), folder)
            if path is not None and path not in paths:
                paths[path] = ""
        known = Known([str(path) for path in paths])
        for path in paths:
            try:
                paths[path] = known.digest(path, str(path), os.stat(path))
            except OSError:  # said of its row, which may be left out
                paths[path] = "missing"
        known.save()
        found = {str(path): digest for path, digest in paths.items() if digest != "missing"}
        key = cache.digest("listed-1", rows.fingerprint, column, *paths.values())
        return cls(rows, folder, column, key, {**table.files(), **found}, rows.class_names, f"{reference.name}, ")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index])
        value = row.pop(self.column, None)
        path = _path(value, self.folder)
        if path is not None:
            value = read(path)
        elif isinstance(value, Mapping):
            value = value.get("bytes")
        if not isinstance(value, Image):
            raise ValueError(
                f"column {self.column!r} is {'null' if value is None else f'a {type(value).__name__}'}: expected a path or an image"
            )
        row.pop("image", None)
        return {self.column if self.column in ("image", "img", "picture") else "image": value, **row}

    def place(self, index: int) -> str:
        return self.rows.where(index).removeprefix(self.prefix)


def _path(value: Any, folder: pathlib.Path) -> pathlib.Path | None:
    """Where the file lies that a column names; None where it holds the image itself, or nothing."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    return folder / os.path.expanduser(value) if isinstance(value, str) and value else None
