"""What a format is, and what every encoder of records offers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import labels
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.data.turns import TrainOn
from ptft_jax.errors import UserError, few, listed, nearest

VERSION = "formats-1"  # part of every identity: changes when the same record gives other ids
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """How the records of a source are to be read.

    Attributes:
      kind: what examples they give: text, answers, preference, classification, or tokens.
      name: the layout of `ptft_jax.data.formats.layouts` they have.
      columns: what a column is -> its name in the records.
      classes: names of the classes in the order of their numbers; () where labels are numbers.
      unused: further columns that the first records have.
      others: layouts that the first records have, too.
      absent: what a further column would be -> its name, that none of the first records has.
      assistant_first: whether conversations may start with the assistant.
      labels: the type of the labels, of `ptft_jax.data.formats.labels`; "" where there are none.
      declared: the order of the classes was given, by the option `classes` or by the source itself.
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

    def describe(self) -> str:
        """One line for people: "sharegpt: messages from column 'conversations'; not used: 'id'"."""
        parts = [", ".join(f"{what} from column {column!r}" for what, column in self.columns.items())]
        if self.classes:
            parts.append("classes " + few(f"{n} = {name}" for n, name in enumerate(self.classes)))
        if self.unused:
            parts.append("not used: " + ", ".join(map(repr, self.unused)))
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
        return value

    def text(self, record: Record, what: str, where: str) -> str:
        """A column that holds text. Raises UserError."""
        value = self.value(record, what, where)
        if not isinstance(value, str):
            raise UserError(f"{where}: column {self.columns[what]!r} is a {type(value).__name__}, expected a text")
        return value

    def optional(self, record: Record, what: str) -> Any:
        """What an optional column holds, None where the format or the record has none."""
        return record.get(self.columns[what]) if what in self.columns else None


class Encoder(abc.ABC):
    """Records of one format to ids. Can be pickled, for worker processes."""

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
        told = self._setting if form.kind in ("answers", "preference") else ""
        renumbered = ("numbers by their names",) if labels.renumbers(form) else ()
        return (
            VERSION,
            form.name,
            *columns,
            *form.classes,
            f"assistant_first={form.assistant_first}",
            told,
            *renumbered,
        )

    def describe(self) -> str:
        """How records become ids, one line for people."""
        return self.format.describe()

    def encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        """One example a record. Raises UserError, starting with the record's place."""
        for record, where in zip(records, wheres):
            for what, column in self.format.absent.items():
                if record.get(column) is not None:
                    raise UserError(
                        f"{where}: column {column!r} is not among those of the first records: to use it, say "
                        f"{what}={column} in the options of the source"
                    )
        return self._encode(records, wheres)

    @abc.abstractmethod
    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]: ...

    @abc.abstractmethod
    def texts(self, record: Record, where: str = "record") -> list[str]:
        """The texts of a record, without what a format or template puts around them."""

    def ids(self, texts: Sequence[str], wheres: Sequence[str]) -> list[np.ndarray]:
        """int32 [n] each: plain texts, in one batch. Raises UserError naming the place of one that is not Unicode."""
        try:
            return self.tokenizer.encode_all(texts)
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
