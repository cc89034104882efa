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
