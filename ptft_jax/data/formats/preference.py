"""Pairs of answers of which one is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import labels
from ptft_jax.data.formats import messages as messages_
from ptft_jax.data.formats.answers import AnswersEncoder, context, turn
from ptft_jax.data.formats.base import Format, Record
from ptft_jax.data.turns import ASSISTANT, Conversation
from ptft_jax.errors import UserError

SIDES = ("chosen", "rejected")


class PreferenceEncoder(AnswersEncoder):
    """Two answers as texts, after a prompt. They are joined as they are, or turns where a template is named.

    Without a prompt, the two texts are whole: the tokens that both start with are the prompt, and not learned.
    """

    asks_for_template = False

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        whole = "prompt" not in self.format.columns
        if whole and self.template:
            raise UserError(
                f"data.template = {self.template_name!r}: these pairs have no prompt, so there are no turns to render: name "
                "its column, or leave the template away"
            )
        prompts = ["" if whole else self.format.text(r, "prompt", w) for r, w in zip(records, wheres)]
        sides = []
        for side in SIDES:
            answers = [self.format.text(record, side, where) for record, where in zip(records, wheres)]
            if self.template:
                conversations = [
                    self.conversation(turn("user", prompt) + turn(ASSISTANT, answer), record, where)
                    for prompt, answer, record, where in zip(prompts, answers, records, wheres)
                ]
                sides.append(self.conversations(conversations))
            else:
                sides.append(self.pairs(prompts, answers, wheres))
        rows = zip(*sides)
        if whole:
            rows = (_apart(*pair) for pair in rows)
        return _joined(self.format, records, wheres, rows)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        columns = [what for what in ("prompt", *SIDES) if what in self.format.columns]
        return [self.format.text(record, what, where) for what in columns]


class MessagePreferenceEncoder(AnswersEncoder):
    """Two conversations that start alike: the messages that both start with are the prompt, and never learned.

    A `prompt` column of messages comes before both; as a text, it is the user's turn, unless they have it already.
    """

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        pairs = [self._pair(record, where) for record, where in zip(records, wheres)]
        sides = [self.conversations([pair[side] for pair in pairs]) for side in range(len(SIDES))]
        return _joined(self.format, records, wheres, zip(*sides))

    def texts(self, record: Record, where: str = "record") -> list[str]:
        (chosen, rejected), shared = self._messages(record, where)
        return self.message_texts(chosen + rejected[shared:], record, where)

    def _pair(self, record: Record, where: str) -> tuple[Conversation, ...]:
        sides, shared = self._messages(record, where)
        return tuple(self.conversation(context(side[:shared]) + side[shared:], record, where) for side in sides)

    def _messages(self, record: Record, where: str) -> tuple[tuple[list, ...], int]:
        """Both conversations, whole, and how many messages they share."""
        chosen, rejected = (
            messages_.normal(self.format.value(record, side, where), f"{where}: {side}", self.format.left_out)
            for side in SIDES
        )
        prompt: Any = self.format.optional(record, "prompt", where)
        if isinstance(prompt, str):
            starts = [side[0].get("role") == ASSISTANT for side in (chosen, rejected) if side]
            if all(starts):
                prompt = turn("user", prompt)
            elif any(starts) or not any(m.get("content") == prompt for m in chosen[: _alike(chosen, rejected)]):
                raise UserError(
                    f"{where}: column {self.format.columns['prompt']!r} is none of the messages that "
                    f"{self.format.columns['chosen']!r} and {self.format.columns['rejected']!r} start with"
                )
            else:
                prompt = None
        if prompt is not None:
            before = messages_.normal(prompt, f"{where}: prompt", self.format.left_out)
            chosen, rejected = before + chosen, before + rejected
        return (chosen, rejected), _alike(chosen, rejected)


def _joined(
    form: Format, records: Sequence[Record], wheres: Sequence[str], rows: Iterable[tuple[Encoded, Encoded]]
) -> list[Encoded]:
    """Pairs of both answers, with by how much the better one is ahead where the records say so. Raises UserError."""
    pairs = [dataclasses.replace(chosen, rejected=rejected) for chosen, rejected in rows]
    if "margin" not in form.columns:
        return pairs
    margins = (labels.value(form.value(r, "margin", w), form, w, "margin") for r, w in zip(records, wheres))
    return [dataclasses.replace(pair, label=margin) for pair, margin in zip(pairs, margins)]


def _alike(first: Sequence, second: Sequence) -> int:
    """How many elements both start with."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _apart(chosen: Encoded, rejected: Encoded) -> tuple[Encoded, Encoded]:
    """Both without the tokens that they start with alike among what is learned."""
    shared = _alike(chosen.ids.tolist(), rejected.ids.tolist())
    rows = []
    for row in (chosen, rejected):
        trained = np.ones(len(row.ids), bool) if row.trained is None else row.trained.copy()
        trained[:shared] = False
        rows.append(dataclasses.replace(row, trained=trained))
    return rows[0], rows[1]
