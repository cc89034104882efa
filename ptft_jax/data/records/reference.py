"""`KIND:NAME[?OPTION=VALUE&...]`: how a source of records is named."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import Options, fields_of
from ptft_jax.config.field import Field
from ptft_jax.config.sources import SOURCES, SourceSpec
from ptft_jax.data.formats import layouts
from ptft_jax.errors import UserError, nearest
from ptft_jax.retrieval import options as retrieval

SPLITS = ("train", "validation", "test")

AS_NAMED = (
    "jsonl",
    "parquet",
    "arrow",
    "csv",
    "text",
)  # whose content=KIND says that files are of it, whatever they look like
# What a file's suffix tells of its kind, for hints.
SUFFIXES = {suffix: kind for kind, spec in SOURCES.items() for suffix in spec.suffixes}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A source as its user named it.

    Attributes:
      text: the whole reference.
      kind: what reads it.
      name: file, folder, glob, URL or name of a dataset.
      options: option -> value, decoded.
      spec: of the kind.
      trains: it is to have something to train on; else splits of its own are enough.
    """

    text: str
    kind: str
    name: str
    options: dict[str, str]
    spec: SourceSpec
    trains: bool = True

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


def parted(reference: str) -> tuple[str, str, str]:
    """(kind, name, options as they are written) of a reference, of whichever kind; "" of what it lacks."""
    kind, _, rest = reference.partition(":")
    # A "?" is also a wildcard of globs: options start at the first one that has OPTION= after it.
    start = re.search(r"\?(?=[A-Za-z_]+=)", rest)
    name, query = (rest[: start.start()], rest[start.end() :]) if start else (rest, "")
    return kind, name.removeprefix("file://"), query


def parse(reference: str, kinds: Mapping[str, SourceSpec] = SOURCES) -> Reference:
    """The parts of a reference. Option values are percent-decoded, and `+` in them is a space (`%2B` is a plus).

    Args:
      kinds: by name; of a config its `tables.sources`, which has those of its plugins.

    Raises:
      UserError: an unknown kind or option, an option without a value or given twice, `examples` that is no count.
    """
    kind, name, query = parted(reference)
    if kind not in kinds or ":" not in reference:
        suffixes = pathlib.PurePath(reference.partition("?")[0]).suffixes
        guess = next((SUFFIXES[s.lower()] for s in reversed(suffixes) if s.lower() in SUFFIXES), "")
        bare = ":" not in reference or reference.startswith("//", len(kind) + 1)  # a name or URL without a kind
        file = guess and kind not in kinds and bare
        url = reference.startswith("//", len(kind) + 1)
        near = f" (did you mean '{guess}:{reference}'?)" if file else "" if url else nearest(kind, kinds)
        raise UserError(f"data source {reference!r}: expected one of {', '.join(kinds)}, then ':' and a name{near}")
    options: dict[str, str] = {}
    spec = kinds[kind]
    valid = (*layouts.OPTIONS, "examples", *spec.options, *retrieval.names()) if spec.source else ()
    parsed = Reference(reference, kind, name, options, spec)
    if not name:
        raise parsed.error(f"{kind}: needs a name after the ':'")
    for option, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if option not in valid:
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
    alone = [name for name in options if name in retrieval.names() and name not in spec.options]
    if alone and "retrieve" not in options:
        raise parsed.error(
            f"option {alone[0]} is of questions that are read with passages: retrieve=INDEX says of which index"
        )
    if kind in AS_NAMED and options.get("content", kind) != kind:
        raise parsed.error(
            f"content={options['content']}: expected {kind}, which says that the files are, whatever they look like"
        )
    if options.get("partial", "no") not in ("yes", "no"):
        raise parsed.error(f"partial={options['partial']}: expected yes or no")
    return parsed


def settings_of(reference: Reference, options: type[Options]) -> Any:
    """The options of a reference that a section declares, as an instance of it. Raises UserError."""
    found = {}
    for name, field in fields_of(options).items():
        if name in reference.options:
            found[name] = _read(field, name, reference)
    return options(**found)


def _read(field: Field, name: str, reference: Reference) -> Any:
    """An option's text as its type."""
    text = reference.options[name]
    value: Any = text
    if isinstance(field.default, bool):
        if text not in ("yes", "no"):
            raise reference.error(f"{name}={text}: expected yes or no")
        value = text == "yes"
    elif isinstance(field.default, (int, float)):
        try:
            value = type(field.default)(text)
        except ValueError:
            raise reference.error(f"{name}={text}: expected a number ({field.meaning})") from None
    value, wrong = field.read(value)
    if wrong:
        raise reference.error(f"{name}{wrong}")
    return value
