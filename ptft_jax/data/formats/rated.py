"""Answers, and texts, of which each is good or bad."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats.answers import MessagePairEncoder, PairEncoder
from ptft_jax.data.formats.base import Encoder, Record
from ptft_jax.data.formats.layouts import is_truth, truth
from ptft_jax.data.formats.plain import TextEncoder
from ptft_jax.errors import UserError


class _Rated(Encoder):
    """With the label 1 of what is good, and 0 of what is bad."""

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        found = [self._label(record, where) for record, where in zip(records, wheres)]
        return [dataclasses.replace(row, label=label) for row, label in zip(super()._encode(records, wheres), found)]

    def _label(self, record: Record, where: str) -> int:
        value = self.format.value(record, "label", where)
        label = truth(value) if is_truth(value) else None
        if label is None:
            column = self.format.columns["label"]
            raise UserError(
                f"{where}: column {column!r} is {value!r}: expected true of a good one, or false of a bad one"
            )
        return label


class RatedEncoder(_Rated, PairEncoder):
    """Prompts and completions as texts."""


class RatedMessagesEncoder(_Rated, MessagePairEncoder):
    """Prompts and completions as lists of messages."""


class RatedTextEncoder(_Rated, TextEncoder):
    """As TextEncoder."""
