"""Formats without turns: text, classification, regression, and what is tokenized already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import labels, late
from ptft_jax.data.formats.base import Encoder, Record, check_unicode
from ptft_jax.data.tokenizers.cutting import BLOCK
from ptft_jax.errors import UserError

IGNORED = -100  # the label of a token that is not learned, in Hugging Face's and PyTorch's convention


class TextEncoder(Encoder):
    """Texts, with what the tokenizer starts a text with before it, and its end token after. All of it is learned."""

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        before = np.asarray(self.tokenizer.prefix_ids, np.int32)
        end = np.asarray([self.tokenizer.end_id], np.int32)
        return [Encoded(np.concatenate([before, ids, end])) for ids in self._between(records, wheres)]

    def encode_long(self, record: Record, where: str) -> Iterator[np.ndarray]:
        """The ids of a text, int32 arrays one after the other: those of `encode`, which makes one array of them. Raises
        UserError."""
        late.refuse_absent(self.format.absent, [(where, record)])
        text = self.format.text(record, "text", where)
        check_unicode(text, where)
        yield from self.encode_blocks(text[at : at + BLOCK] for at in range(0, len(text), BLOCK))

    def encode_blocks(self, blocks: Iterable[str], skip: int = 0) -> Iterator[np.ndarray]:
        """As `encode_long`, of the text that blocks make, without the first `skip` arrays, which are not computed."""
        if not skip:
            yield np.asarray(self.tokenizer.prefix_ids, np.int32)
        yield from self.tokenizer.encode_long(blocks, special=self.format.control_tokens, skip=max(skip - 1, 0))
        yield np.asarray([self.tokenizer.end_id], np.int32)

    def _between(self, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        """The ids between what a text starts and ends with, int32 [n] a record."""
        return self._column("text", records, wheres)

    def _column(self, what: str, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        return self.ids([self.format.text(record, what, where) for record, where in zip(records, wheres)], wheres)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return [self.format.text(record, "text", where)]


class ClassificationEncoder(TextEncoder):
    """As TextEncoder, with the class."""

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        form = self.format
        found = [self._label(form.value(record, "label", where), where) for record, where in zip(records, wheres)]
        return [Encoded(row.ids, label=label) for row, label in zip(super()._encode(records, wheres), found)]

    def _label(self, value: Any, where: str) -> int | float:
        """What a label means. Raises UserError."""
        return labels.number(value, self.format, where)


class RegressionEncoder(ClassificationEncoder):
    """As TextEncoder, with a number."""

    def _label(self, value: Any, where: str) -> int | float:
        return labels.value(value, self.format, where)


class _OfTwo(TextEncoder):
    """Two texts, with what the tokenizer has between these (`Tokenizer.between`)."""

    def _between(self, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        between = np.asarray(self.tokenizer.between.ids, np.int32)
        both = (self._column(what, records, wheres) for what in ("text", "pair"))
        return [np.concatenate([first, between, second]) for first, second in zip(*both)]

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return [self.format.text(record, what, where) for what in ("text", "pair")]


class PairClassificationEncoder(_OfTwo, ClassificationEncoder):
    """As ClassificationEncoder, of two texts."""


class PairRegressionEncoder(_OfTwo, RegressionEncoder):
    """As RegressionEncoder, of two texts."""


class TokensEncoder(Encoder):
    """Ids as they are: nothing is put before or after them.

    What is learned: where there are `labels`, the tokens whose label is not -100 (others are the tokens themselves: labels
    are not shifted); where there is a `mask`, those where it is 1; else all. `padding` (an attention mask) has ones, then
    zeros, or the other way round: where it is 0, tokens are left out.
    """

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        return [self._example(record, where) for record, where in zip(records, wheres)]

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return [self.tokenizer.decode(self._example(record, where).ids)]

    def _example(self, record: Record, where: str) -> Encoded:
        ids = self._integers(record, "input_ids", where)
        size = self.tokenizer.vocab_size
        bad = np.flatnonzero((ids < 0) | (ids >= size))
        if len(bad):
            raise UserError(
                f"{where}: {self.format.columns['input_ids']}[{bad[0]}] = {ids[bad[0]]}: the tokenizer "
                f"{self.tokenizer.origin} has ids 0 to {size - 1}"
            )
        keep = self._flags(record, "padding", where, len(ids))
        if keep is not None and np.count_nonzero(np.diff(keep.astype(np.int8))) > 1:
            raise UserError(f"{where}: column {self.format.columns['padding']!r} leaves out tokens amid others")
        trained = self._flags(record, "mask", where, len(ids))
        if (labels := self._integers(record, "labels", where, len(ids), optional=True)) is not None:
            learned = labels != IGNORED
            wrong = np.flatnonzero(learned & (labels != ids))
            if len(wrong):
                i = wrong[0]
                raise UserError(
                    f"{where}: {self.format.columns['labels']}[{i}] = {labels[i]}, but the token there is {ids[i]}: labels "
                    f"are the tokens themselves, not shifted, or {IGNORED} where they are not learned"
                )
            trained = learned if trained is None else learned & trained
        if keep is not None:
            ids, trained = ids[keep], trained if trained is None else trained[keep]
        return Encoded(ids.astype(np.int32), trained)

    def _flags(self, record: Record, what: str, where: str, length: int) -> np.ndarray | None:
        values = self._integers(record, what, where, length, optional=True)
        if values is None:
            return None
        if not np.isin(values, (0, 1)).all():
            raise UserError(f"{where}: column {self.format.columns[what]!r} has other values than 0 and 1")
        return values.astype(bool)

    def _integers(self, record: Record, what: str, where: str, length: int | None = None, optional: bool = False):
        if optional and what not in self.format.columns:
            return None
        values, column = self.format.value(record, what, where), self.format.columns[what]
        if not isinstance(values, (list, tuple)) or not all(isinstance(v, int) for v in values):
            raise UserError(f"{where}: column {column!r} is no list of whole numbers")
        if length is not None and len(values) != length:
            raise UserError(f"{where}: column {column!r} has {len(values)} values for {length} tokens")
        try:
            return np.asarray(values, np.int64)
        except OverflowError as e:
            raise UserError(f"{where}: column {column!r} has a number of more than 64 bits") from e
