"""`KIND:NAME[?OPTION=VALUE&...]`: how a source of records is named."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import urllib.parse

from ptft_jax.data.formats import layouts
from ptft_jax.errors import UserError, nearest

SPLITS = ("train", "validation", "test")

_TEXTS = (*layouts.OPTIONS, "examples")
_FILES = (*SPLITS, "partial")
_SPLITTABLE = (*_TEXTS, "id", *SPLITS)

# Options of each kind. "tokens" is what `ptft data prepare` wrote: token ids, which are not opened as records.
OPTIONS = {
    "jsonl": (*_TEXTS, "id", *_FILES, "content"),
    "parquet": (*_TEXTS, "id", *_FILES, "content", "columns"),
    "csv": (*_TEXTS, "id", *_FILES, "content", "quoting"),
    "arrayrecord": (*_TEXTS, "id", *_FILES, "content"),
    "hf": (*_SPLITTABLE, "columns"),
    "tfds": (*_SPLITTABLE, "columns", "dir"),
    "text": (*_TEXTS, *_FILES, "content"),
    "shakespeare": _TEXTS,
    "stdlib": _TEXTS,
    "tokens": (),
}
AS_NAMED = ("jsonl", "parquet", "csv", "text")  # whose content=KIND says that files are of it, whatever they look like
# What a file's suffix tells of its kind, for hints.
SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv",
    ".array_record": "arrayrecord", ".arrayrecord": "arrayrecord", ".txt": "text", ".md": "text", ".text": "text",
    ".rst": "text", ".py": "text",
}  # fmt: skip


def suffixes_of(kind: str) -> tuple[str, ...]:
    """The endings of the files of a kind; () of one that is no files."""
    return tuple(suffix for suffix, of in SUFFIXES.items() if of == kind)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A source as its user named it.

    Attributes:
      text: the whole reference.
      kind: what reads it, a key of `OPTIONS`.
      name: file, folder, glob, URL or name of a dataset.
      options: option -> value, decoded.
    """

    text: str
    kind: str
    name: str
    options: dict[str, str]

    def error(self, problem: str) -> UserError:
        """The error that says which source has the problem."""
        return UserError(f"data source {self.text!r}: {problem}")

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns to read (option `columns`), None = all."""
        return tuple(self.options["columns"].split(",")) if "columns" in self.options else None

    @property
    def id_column(self) -> str | None:
        """The column whose values must not repeat: option `id`, "id" where it is not given; None for `id=-`."""
        column = self.options.get("id", "id")
        return None if column == "-" else column

    @property
    def examples(self) -> int | None:
        """How many records of the train split to use (option `examples`), None = all."""
        return int(self.options["examples"]) if "examples" in self.options else None


def parse(reference: str) -> Reference:
    """The parts of a reference. Option values are percent-decoded, and `+` in them is a space (`%2B` is a plus).

    Raises:
      UserError: an unknown kind or option, an option without a value or given twice, `examples` that is no count.
    """
    kind, colon, rest = reference.partition(":")
    if kind not in OPTIONS or not colon:
        suffixes = pathlib.PurePath(reference.partition("?")[0]).suffixes
        guess = next((SUFFIXES[s.lower()] for s in reversed(suffixes) if s.lower() in SUFFIXES), "")
        file = guess and kind not in OPTIONS and (not colon or rest.startswith("//"))  # a name or URL without a kind
        near = f" (did you mean '{guess}:{reference}'?)" if file else nearest(kind, OPTIONS)
        raise UserError(f"data source {reference!r}: expected one of {', '.join(OPTIONS)}, then ':' and a name{near}")
    # A "?" is also a wildcard of globs: options start at the first one that has OPTION= after it.
    start = re.search(r"\?(?=[A-Za-z_]+=)", rest)
    name, query = (rest[: start.start()], rest[start.end() :]) if start else (rest, "")
    name = name.removeprefix("file://")
    options: dict[str, str] = {}
    parsed = Reference(reference, kind, name, options)
    if not name:
        raise parsed.error(f"{kind}: needs a name after the ':'")
    for option, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if option not in OPTIONS[kind]:
            valid = OPTIONS[kind]
            raise parsed.error(
                f"{kind} has no option {option!r}; it has {', '.join(valid) or 'none'}{nearest(option, valid)}"
            )
        if option in options:
            raise parsed.error(f"option {option} is given twice")
        if not value:
            raise parsed.error(f"option {option} has no value")
        options[option] = value
    if not re.fullmatch(r"[1-9][0-9]*", options.get("examples", "1")):
        raise parsed.error(f"examples={options['examples']}: expected a count of records, 1 or more")
    if kind in AS_NAMED and options.get("content", kind) != kind:
        raise parsed.error(
            f"content={options['content']}: expected {kind}, which says that the files are, whatever they look like"
        )
    if options.get("partial", "no") not in ("yes", "no"):
        raise parsed.error(f"partial={options['partial']}: expected yes or no")
    return parsed
