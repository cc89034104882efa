"""Streams of texts whose every document is drawn anew: so many of train, a twentieth of that of validation and of
test."""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from typing import Any

from ptft_jax.data.records.reference import SPLITS
from ptft_jax.world import draws
from ptft_jax.world.stream import Document, Documents, Stream

_HELD = 20  # documents of train for one of validation, and one of test


class Told(Stream):
    """Texts, `settings.documents` of train; or, where it has that and it is set (`settings.ask`), every question
    that can be asked."""

    def documents(self, split: str) -> Documents:
        if getattr(self.settings, "ask", False):
            return Listed(self, split, self.asked(split))
        count = self.settings.documents
        return _Told(self, split, count if split == "train" else max(count // _HELD, 1))

    @abc.abstractmethod
    def document(self, random: draws.Draws, split: str) -> Document:
        """A document, from its random numbers alone."""

    def asked(self, split: str) -> Sequence[Document]:
        """All questions of a split, as records for evaluations."""
        raise NotImplementedError


class _Told(Documents):
    def __init__(self, stream: Told, split: str, count: int):
        super().__init__(stream, split)
        self._stream, self._split, self._count, self._key = stream, split, count, stream.key("told", split)
        self.described = f"{count:,} documents of {stream.name}"

    def __len__(self) -> int:
        return self._count

    def document(self, index: int) -> Document:
        return self._stream.document(draws.Draws(self._key, index), self._split)


class Listed(Documents):
    """A few documents, all made at once, in an order that their split decides."""

    def __init__(self, stream: Stream, split: str, rows: Sequence[Document]):
        super().__init__(stream, split)
        self._rows, self._shuffle = rows, draws.Shuffle(stream.key("order", split), len(rows))
        self.described = f"{len(rows):,} questions of {stream.name}"

    def __len__(self) -> int:
        return len(self._rows)

    def document(self, index: int) -> Document:
        return dict(self._rows[self._shuffle[index]])


def drawn(random: draws.Draws, shares: Sequence[float]) -> int:
    """A number by shares, which sum to 1."""
    at, rest = 0, random.share()
    while at < len(shares) - 1 and rest >= shares[at]:
        rest -= shares[at]
        at += 1
    return at


def sides(key: int, count: int, held_out: float = 0.2) -> list[str]:
    """The split of each of `count` things: a share of them is of test, half as large a one of validation."""
    found = draws.shares(key, count).tolist()
    return [SPLITS[2] if x < held_out else SPLITS[1] if x < 1.5 * held_out else SPLITS[0] for x in found]


def spelled(*words: Any) -> str:
    """What a stream's words are, for its fingerprint."""
    return json.dumps(words, ensure_ascii=False)
