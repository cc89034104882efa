"""Rows of an image and what is said of it, for a model of text with a tower for images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from ptft_jax.data.builders.base import Piece
from ptft_jax.data.builders.pictures import Pictures
from ptft_jax.data.pictures import augment
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.model import tower_settings
from ptft_jax.model.spec import IMAGE


@dataclasses.dataclass(frozen=True)
class Described(Pictures):
    """Rows of an image, and of a caption or a question with its answer: images uint8 [image_size, image_size, channels]; inputs and targets int32
    [length], weights float32 [length], positions and segments int32 [length]. What a text of the tokenizer starts with comes first, then `IMAGE` in each
    of the image's positions, then the text. A question is read and not learned, and so is what comes before the image.

    Attributes:
      taken: positions of an image.
      before: how many tokens a text starts with.
    """

    taken: int = 1
    before: int = 0

    kinds: ClassVar[tuple[str, ...]] = ("captioned-images", "asked-images")

    @classmethod
    def of_images(cls, objective: Any, model: Any, data: Any) -> Self:
        del objective
        own = tower_settings.settings(model.tower)
        taken = tower_settings.count(model.tower, model.projector_merge)
        sizes = own["image_size"], data.images.size, own["channels"], data.length
        return cls(*sizes, augment.of(data.augment, cls.labelled), taken)

    def with_texts(self, tokenizer: Tokenizer, model: Any) -> Self:
        return dataclasses.replace(self, before=len(tokenizer.prefix_ids))

    @property
    def least(self) -> int:
        return self.values + 8  # a token, and the end

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.maximum(-(-(np.asarray(n) - self.values) // 4), 2) - 1 + self.taken

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> None:
        return None  # the text says which tokens are

    def parted(self, ids: np.ndarray, label: int) -> tuple[np.ndarray, Any]:
        """An image, and its text, int32 [n] (`ptft_jax.data.formats.pictures.said`)."""
        return super().parted(ids[: self.values], label)[0], ids[self.values :].copy().view("<i4")

    def row(self, one: Any, rng: np.random.Generator, draw: Callable[[np.random.Generator], Any]) -> Piece:
        text = one[1].astype(np.int32)
        learned = text >= 0
        learned[: self.before] = False
        image = np.full(self.taken, IMAGE, np.int32)
        ids = np.concatenate([text[: self.before], image, text[self.before :]])
        learned = np.concatenate([learned[: self.before], np.zeros(self.taken, bool), learned[self.before :]])
        ids[self.before + self.taken :] = np.where(ids < 0, ~ids, ids)[self.before + self.taken :]
        count, found = len(ids) - 1, super().row(one, rng, draw)
        made = {"inputs": ids[:-1], "targets": np.maximum(ids[1:], 0), "weights": learned[1:].astype(np.float32)}
        made |= {"positions": np.arange(count, dtype=np.int32), "segments": np.ones(count, np.int32)}
        padded = {name: np.zeros(self.length, values.dtype) for name, values in made.items()}
        for name, values in made.items():
            padded[name][:count] = values
        return {**padded, "images": found["inputs"]}
