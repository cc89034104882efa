"""What a format is, and what every encoder of records offers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import json_text, labels, late
from ptft_jax.data.formats.layouts import TALKING
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.data.turns import TrainOn
from ptft_jax.errors import UserError, few, listed, nearest

VERSION = "formats-2"  # part of every identity: changes when the same record gives other ids
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """How the records of a source are to be read.

    Attributes:
      kind: what examples they give: text, answers, preference, rated, rated-text, steps, classification, or tokens.
      name: the layout of `ptft_jax.data.formats.layouts` they have.
      columns: what a column is -> its name in the records.
      classes: names of the classes in the order of their numbers; () where labels are numbers.
      unused: further columns that are there and not read.
      others: layouts that the first records have, too.
      absent: name of a further column that none of the first records has -> what it would be.
      assistant_first: whether conversations may start with the assistant.
      labels: the type of the labels, of `ptft_jax.data.formats.labels`; "" where there are none.
      declared: the order of the classes was given, by the option `classes` or by the source itself.
      control_tokens: whether control tokens that texts spell are those tokens, not text.
      left_out: columns, and fields of messages, that are not read on purpose.
      learn_empty: whether answers with nothing in them are learned.
      json: columns that hold their lists as JSON in a text.
      no_json: columns of texts that could be such lists, and may not be where the first records' are none.
    """

    kind: str
    name: str
    columns: Mapping[str, str]
    classes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    assistant_first: bool = False
    labels: str = ""
    declared: bool = False
    control_tokens: bool = False
    left_out: tuple[str, ...] = ()
    learn_empty: bool = True
    json: tuple[str, ...] = ()
    no_json: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people: "sharegpt: messages from column 'conversations'; not used: 'id'"."""
        as_json = {column: " (JSON in a text)" for column in self.json}
        parts = [
            ", ".join(
                f"{what} from column {column!r}{as_json.get(column, '')}" for what, column in self.columns.items()
            )
        ]
        if self.classes:
            parts.append("classes " + few(f"{n} = {name}" for n, name in enumerate(self.classes)))
        if self.control_tokens:
            parts.append("control tokens are read in texts")
        if not self.learn_empty:
            parts.append("empty answers are not learned")
        if names := dict.fromkeys((*self.unused, *self.left_out)):
            parts.append("not used: " + ", ".join(map(repr, names)))
        if self.others:
            parts.append("would also be read as " + ", ".join(f"format={name}" for name in self.others))
        return f"{self.name}: {'; '.join(parts)}"

    def value(self, record: Record, what: str, where: str) -> Any:
        """What a column of a record holds. Raises UserError where the record lacks it."""
        column = self.columns[what]
        value = record.get(column)
        if value is None:
            lacks = "is null" if column in record else f"is missing{nearest(column, record)}"
            raise UserError(f"{where}: column {column!r} {lacks}; there are:{listed(map(str, record)) or ' none'}")
        return json_text.value(value, column, where) if column in self.json else value

    def text(self, record: Record, what: str, where: str) -> str:
        """A column that holds text. Raises UserError."""
        value = self.value(record, what, where)
        column = self.columns[what]
        if not isinstance(value, str):
            raise UserError(f"{where}: column {column!r} is a {type(value).__name__}, expected a text")
        if column in self.no_json and json_text.looks(value, json_text.MESSAGES):
            raise UserError(
                f"{where}: column {column!r} holds messages as JSON in a text, and the first records other texts: write all "
                f"alike, or say format={self.name} in the options of the source to have texts read as they stand"
            )
        return value

    def optional(self, record: Record, what: str, where: str = "record") -> Any:
        """What an optional column holds, None where the format or the record has none. Raises UserError."""
        there = what in self.columns and record.get(self.columns[what]) is not None
        return self.value(record, what, where) if there else None


class Encoder(abc.ABC):
    """Records of one format to ids. Can be pickled, for worker processes.

    Attributes:
      values: the type that ids are kept in; None = the narrowest that holds those of the vocabulary.
    """

    values: Any = None

    def __init__(self, format: Format, tokenizer: Tokenizer, template: str, train_on: str):
        """See `ptft_jax.data.formats.encoder`."""
        self.format, self.tokenizer = format, tokenizer
        self.template_name, self.train_on = template, TrainOn.parse(train_on)
        self._setting = train_on

    def __reduce__(self):
        return type(self), (self.format, self.tokenizer, self.template_name, self._setting)

    @property
    def identity(self) -> tuple[str, ...]:
        """All that decides the ids of a record, beside the tokenizer's fingerprint."""
        form = self.format
        columns = [f"{what}={column}" for what, column in sorted(form.columns.items())]
        told = self._setting if form.kind in TALKING else ""
        told = (*form.classes, f"assistant_first={form.assistant_first}", told)
        told += ("numbers by their names",) if labels.renumbers(form) else ()
        told += tuple(f"unused={name}" for name in sorted(form.left_out))
        told += tuple(f"json={name}" for name in sorted(form.json))
        told += tuple(f"no json={name}" for name in sorted(form.no_json))  # what is refused is not found in the cache
        told += ("control_tokens",) * form.control_tokens + ("empty answers are context",) * (not form.learn_empty)
        return (VERSION, form.name, *columns, *told)

    def describe(self) -> str:
        """How records become ids, one line for people."""
        return self.format.describe()

    def encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        """One example a record. Raises UserError, starting with the record's place."""
        late.refuse_absent(self.format.absent, list(zip(wheres, records)))
        return self._encode(records, wheres)

    @abc.abstractmethod
    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]: ...

    @abc.abstractmethod
    def texts(self, record: Record, where: str = "record") -> list[str]:
        """The texts of a record, without what a format or template puts around them."""

    def said(self, record: Record, where: str = "record") -> list[str]:
        """What of `texts` a tokenizer is trained on."""
        return self.texts(record, where)

    def ids(self, texts: Sequence[str], wheres: Sequence[str]) -> list[np.ndarray]:
        """int32 [n] each: texts, in one batch, whose control tokens are text unless the format says otherwise. Raises
        UserError naming the place of one that is not Unicode."""
        try:
            return self.tokenizer.encode_all(texts, special=self.format.control_tokens)
        except UserError:
            for text, where in zip(texts, wheres):
                check_unicode(text, where)
            raise


def check_unicode(text: str, where: str) -> None:
    """Raises UserError for lone surrogates, which JSON can spell and no text has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(
            f"{where}: not Unicode: character {e.start} of {text[:40]!r} is the lone surrogate U+{ord(text[e.start]):X}"
        ) from e
