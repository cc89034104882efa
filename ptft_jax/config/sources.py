"""The kinds of sources that `config.data.source` and its like can name, KIND:NAME. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.world import options as world

# What reads a source of any kind with passages of an index before its questions (`ptft_jax.retrieval.options`).
RETRIEVED = "ptft_jax.retrieval.questions:source"
_HERE = "ptft_jax.data.records"
_FILES = ("train", "validation", "test", "partial")
_SPLITS = ("id", "train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """A kind of source.

    Attributes:
      source: a function of (`ptft_jax.data.records.Reference`, "raise" or "skip": what becomes of broken records) that opens a
        `ptft_jax.data.records.Source`, or its place, "package.module:name". It is a function of a module, which other processes
        can import.
      options: names of its own options, ?NAME=VALUE, beside those that say what records mean, which all kinds have.
      suffixes: endings of its files.
    """

    source: Any
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("options", "suffixes"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"SourceSpec: {name} = {getattr(self, name)!r}: expected a tuple of texts")


SOURCES: Mapping[str, SourceSpec] = {
    "jsonl": SourceSpec(f"{_HERE}.json_lines:source", ("id", *_FILES, "content"), (".jsonl", ".ndjson", ".json")),
    "parquet": SourceSpec(f"{_HERE}.parquet:source", ("id", *_FILES, "content", "columns"), (".parquet",)),
    "arrow": SourceSpec(
        f"{_HERE}.arrow:source", ("id", *_FILES, "content", "columns"), (".arrow", ".arrows", ".feather", ".ipc")
    ),
    "csv": SourceSpec(f"{_HERE}.delimited:source", ("id", *_FILES, "content", "quoting"), (".csv", ".tsv")),
    "arrayrecord": SourceSpec(
        f"{_HERE}.array_records:source", ("id", *_FILES, "content"), (".array_record", ".arrayrecord")
    ),
    "hf": SourceSpec(f"{_HERE}.hub:source", (*_SPLITS, "columns")),
    "tfds": SourceSpec(f"{_HERE}.tfds:source", (*_SPLITS, "columns", "dir")),
    "text": SourceSpec(f"{_HERE}.texts:source", (*_FILES, "content"), (".txt", ".md", ".text", ".rst", ".py")),
    "shakespeare": SourceSpec(f"{_HERE}.texts:source"),
    "stdlib": SourceSpec(f"{_HERE}.texts:source"),
    "images": SourceSpec(
        "ptft_jax.data.pictures.source:source", ("id", *_FILES, "max_pixels", "draws", "size", "questions")
    ),
    "world": SourceSpec("ptft_jax.world.source:source", ("id", *world.names())),
    "tokens": SourceSpec(None),  # what `ptft data prepare` wrote: token ids, which are not opened as records
}
