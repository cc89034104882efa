"""Formats of images: pixels in the place of ids, as bytes are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import labels
from ptft_jax.data.formats.base import Encoder, Format, Record
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import BoundedImage, Pixels
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError

_BOUNDED = 1 << 40  # pixels of an image that its source has bounded


class PictureEncoder(Encoder):
    """Images as their pixels, row by row, uint8 [size * size * channels]; and their class, where they have one."""

    values = np.uint8

    def __init__(
        self, format: Format, tokenizer: Tokenizer, template: str, train_on: str, pixels: Pixels | None = None
    ):
        super().__init__(format, tokenizer, template, train_on)
        self._pixels = pixels or Pixels()

    def __reduce__(self):
        return type(self), (self.format, self.tokenizer, self.template_name, self._setting, self._pixels)

    @property
    def identity(self) -> tuple[str, ...]:
        p = self._pixels
        return (*super().identity, f"pixels-1 {p.size} {p.channels} {p.fit} {p.background}")

    def describe(self) -> str:
        p = self._pixels
        return f"{super().describe()}; kept as {p.size} x {p.size} x {p.channels} pixels"

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        found = []
        for record, where in zip(records, wheres):
            image = self.image(record, where)
            most = _BOUNDED if isinstance(image, BoundedImage) else decoding.MOST_PIXELS
            try:
                pixels = decoding.decoded(image, most=most, background=self._pixels.background)
            except ValueError as e:
                raise UserError(f"{where}: {e}") from e
            found.append(Encoded(decoding.fitted(pixels, self._pixels).reshape(-1), label=self._label(record, where)))
        return found

    def _label(self, record: Record, where: str) -> int:
        if self.format.kind != "labelled-images":
            return -1
        return labels.number(self.format.value(record, "label", where), self.format, where)

    def image(self, record: Record, where: str = "record") -> bytes:
        """The bytes of a record's image. Raises UserError where it has none."""
        value: Any = self.format.value(record, "image", where)
        value = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(value, bytes):
            raise UserError(f"{where}: column {self.format.columns['image']!r} holds no bytes of an image")
        return value

    def texts(self, record: Record, where: str = "record") -> list[str]:
        """What stands for the image where records are compared and divided: a digest of its bytes."""
        return [hashlib.blake2b(self.image(record, where), digest_size=16).hexdigest()]


class CaptionEncoder(PictureEncoder):
    """Images as their pixels, and behind them the tokens of their caption, with what a text starts and ends with, four bytes each."""

    _whats, _or_cut = "the caption", ", or set config.data.overlong='truncate'"

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, f"captions-1 {self._pixels.caption_length} {self._pixels.cut}")

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        pictures, texts = super()._encode(records, wheres), self._texts(records, wheres)
        whole = (self._whole(ids, where) for ids, where in zip(texts, wheres))
        return [Encoded(np.concatenate([one.ids, ids.view(np.uint8)])) for one, ids in zip(pictures, whole)]

    def _texts(self, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        """What is said of each image, int32 [n], without its ends."""
        return self._column("caption", records, wheres)

    def _column(self, what: str, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        texts = [self.format.text(record, what, where) for record, where in zip(records, wheres)]
        for text, where in zip(texts, wheres):
            if not text.strip():
                column, a = self.format.columns[what], "an" if what == "answer" else "a"
                raise UserError(f"{where}: column {column!r} is empty: expected {a} {what}")
        return self.ids(texts, wheres)

    def _whole(self, ids: np.ndarray, where: str) -> np.ndarray:
        """A caption, int32 [n], with its ends."""
        before, most = self.tokenizer.prefix_ids, self._pixels.caption_length
        room = most - len(before) - 1
        if most and len(ids) > room:
            if not self._pixels.cut:
                raise UserError(
                    f"{where}: {self._whats} has {len(ids)} tokens, and there is room for {room} beside its ends (model.text_length, or what an image leaves of "
                    f"data.length); give it more{self._or_cut}"
                )
            ids = ids[:room]
        return np.asarray([*before, *ids, self.tokenizer.end_id], "<i4")

    def said(self, record: Record, where: str = "record") -> list[str]:
        return [self.format.text(record, "caption", where)]


class AskedEncoder(CaptionEncoder):
    """As captions, of a question and its answer, joined as they are. A token of the question is kept as ~token, less than 0: it is read, and not
    learned."""

    _whats, _or_cut = "the question with its answer", ""

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, "asked-1")

    def _texts(self, records: Sequence[Record], wheres: Sequence[str]) -> list[np.ndarray]:
        both = (self._column(what, records, wheres) for what in ("question", "answer"))
        return [np.concatenate([~np.asarray(question, np.int32), answer]) for question, answer in zip(*both)]

    def said(self, record: Record, where: str = "record") -> list[str]:
        return [self.format.text(record, what, where) for what in ("question", "answer")]
