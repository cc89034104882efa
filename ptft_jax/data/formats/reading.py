"""What of a source's records is read: it decides whether two records are equal, and on which side of a split they fall."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data.formats import choosing, deciding, layouts
from ptft_jax.data.formats.base import VERSION, Encoder, Format, Record
from ptft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the records of a source are read, as their first hundred and the options of its reference decide.

    Attributes:
      layout: the name of their layout; "" where none fits, and so whole records count.
      columns: what a column is -> its name in the records.
      watched: names of columns that could have decided otherwise, wherever they turn up.
      strict: whether what is read has to be of JSON's types.
      json: columns that hold their lists as JSON in a text.
      left_out: columns, and fields of messages, that are not read on purpose.
    """

    layout: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    watched: frozenset[str] = layouts.NAMES
    strict: bool = True
    json: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, sample: Sequence[Record], options: Mapping[str, str]) -> Reading:
        """The reading of records that begin with `sample`."""
        named = choosing.named(options)
        try:
            if not sample:
                raise UserError("no records")
            decided = deciding.decide(sample, options.get("format"), named, str)
        except UserError:  # said where examples are made of the records, with their places
            return cls.of_columns("", {}, options)
        layout, columns = decided.fitting[0]
        return cls.of_columns(
            layout.name, choosing.kept(layout, columns, choosing.left_out(options)), options, decided.coded
        )

    @classmethod
    def of_columns(
        cls, layout: str, columns: Mapping[str, str], options: Mapping[str, str], json: Sequence[str] = ()
    ) -> Reading:
        """The reading by a layout that was decided before; `json`: columns that hold JSON in a text."""
        watched = layouts.NAMES | {*choosing.named(options).values()}
        json = tuple(column for column in json if column in columns.values())
        return cls(layout, columns, watched, json=json, left_out=choosing.left_out(options) if layout else ())

    @property
    def identity(self) -> str:
        """Text that two readings share if records are the same to both."""
        return repr(
            (VERSION, self.layout, sorted(self.columns.items()), sorted(self.watched), self.json, self.left_out)
        )

    def reads(self, column: str) -> bool:
        """Whether a column has to hold values of JSON's types."""
        return self.strict and (not self.layout or column in self.columns.values())

    def needed(self, have: Sequence[str], *others: str | None) -> list[str]:
        """Of the columns `have` those that have to be looked at: all where no layout fits, or nothing of it is there."""
        if not set(have).intersection(self.columns.values()):
            return list(have)
        wanted = {*self.columns.values(), *self.watched, *others}
        return [name for name in have if name in wanted]

    def content(self, record: Record) -> dict[str, Any]:
        """What is read of a record: what a column is -> its value, without nulls; of a record that has nothing of that, and
        where no layout fits, all."""
        found = {what: record[name] for what, name in self.columns.items() if record.get(name) is not None}
        return found or dict(record)

    def texts(self, record: Record) -> list[str]:
        """What a record says, without empty texts, the same in whichever layout: [] where that cannot be told. Of token ids,
        which are texts to their own tokenizer only, the numbers."""
        if self._encoder is None:
            return []
        try:
            if self.layout == "tokens":
                return [str(self._encoder.format.optional(record, "input_ids"))]
            return [text for text in self._encoder.texts(record) if text]
        except (UserError, TypeError, ValueError, KeyError, AttributeError):  # it is refused when it is encoded
            return []

    @functools.cached_property
    def _encoder(self) -> Encoder | None:
        if not self.layout:
            return None
        from ptft_jax.data import formats
        from ptft_jax.data import tokenizers as tok

        kind = next(layout.kind for layout in layouts.LAYOUTS if layout.name == self.layout)
        form = Format(kind, self.layout, self.columns, left_out=self.left_out, json=self.json)
        return formats.encoder(form, tok.ByteTokenizer(), template="chatml")
