"""Rows of images: pixels, varied anew each time that they are drawn in training, with a class or with the patches that are seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.pictures import augment
from ptft_jax.data.pictures.augment import Augment
from ptft_jax.data.tokenizers import Tokenizer

Labelled = tuple[np.ndarray, int]  # an image uint8 [size, size, channels], and its class


@dataclasses.dataclass(frozen=True)
class Pictures(Builder):
    """What rows of images share. A row is one image, uint8 [image_size, image_size, channels].

    Attributes:
      image_size: height and width that the model reads.
      kept: those that images are kept with, at least as much.
      channels: of an image.
      length: positions of a row, what the model makes of an image.
      augment: how it is varied.
    """

    image_size: int
    kept: int
    channels: int
    length: int
    augment: Augment = dataclasses.field(default_factory=Augment)

    kinds: ClassVar[tuple[str, ...]] = ("labelled-images", "images")
    random: ClassVar[bool] = True
    pictured: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True

    @classmethod
    def of_images(cls, objective: Any, model: Any, data: Any) -> Self:
        """The builder of `config.objective`, for a model (its `ModelSpec`, or `config.model`) and `config.data`."""
        del objective  # most need no more
        return cls(
            model.image_size, data.images.size, model.channels, model.max_length, augment.of(data.augment, cls.labelled)
        )

    def with_texts(self, tokenizer: Tokenizer, model: Any) -> Self:
        """The builder for a model (as of `of_images`) whose texts have a tokenizer; itself where rows have none."""
        del tokenizer, model
        return self

    @property
    def plain(self) -> Self:
        return dataclasses.replace(self, augment=Augment())

    @property
    def values(self) -> int:
        """Numbers of an image, as it is kept."""
        return self.kept**2 * self.channels

    @property
    def least(self) -> int:
        """Numbers of the shortest example."""
        return self.values

    def slots(self, n: np.ndarray) -> np.ndarray:
        """An image fills a row."""
        return -(-np.asarray(n) * self.length // self.values)

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray:
        return np.ones(len(n), np.int64)  # the image

    def parted(self, ids: np.ndarray, label: int) -> tuple[np.ndarray, Any]:
        """What a stored example holds: an image, and its class."""
        return ids.reshape(self.kept, self.kept, self.channels), label

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None) -> Piece:
        raise NotImplementedError("a row of images is made by `row`")

    def row(self, one: Labelled, rng: np.random.Generator, draw: Callable[[np.random.Generator], Labelled]) -> Piece:
        """The arrays of a row: inputs uint8 [image_size, image_size, channels], weights float32 [], and what the objective needs.

        Args:
          one: the image, and its class.
          rng: the row's own.
          draw: gives any other image that is trained on, for those that are mixed.
        """
        return {"inputs": self.augment.varied(one[0], self.image_size, rng), "weights": np.float32(1)}


@dataclasses.dataclass(frozen=True)
class ClassedPictures(Pictures):
    """Rows with a class: targets int32 []; and where images are mixed the `other` class, int32 [], and the `share` that the first
    one has, float32 []."""

    kinds: ClassVar[tuple[str, ...]] = ("labelled-images",)
    labelled: ClassVar[bool] = True

    def row(self, one: Labelled, rng: np.random.Generator, draw: Callable[[np.random.Generator], Labelled]) -> Piece:
        made = {**super().row(one, rng, draw), "targets": np.int32(one[1])}
        if not self.augment.mixes:
            return made
        second, other = draw(rng)
        varied = self.augment.varied(second, self.image_size, rng)
        inputs, share = self.augment.mixed(made["inputs"], varied, rng)
        return {**made, "inputs": inputs, "other": np.int32(other), "share": np.float32(share)}


@dataclasses.dataclass(frozen=True)
class MaskedPictures(Pictures):
    """Rows with the patches that the model sees: visible int32 [K], in the order of their numbers.

    Attributes:
      patch_size: height and width of a patch.
      hidden: share of the patches that are not seen.
    """

    patch_size: int = 16
    hidden: float = 0.75

    @classmethod
    def of_images(cls, objective: Any, model: Any, data: Any) -> Self:
        made = super().of_images(objective, model, data)
        return dataclasses.replace(made, patch_size=model.patch_size, hidden=objective.hidden_patches)

    @property
    def patches(self) -> int:
        """How many an image has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def seen(self) -> int:
        """How many of them the model sees."""
        return max(int(self.patches * (1 - self.hidden)), 1)

    def row(self, one: Labelled, rng: np.random.Generator, draw: Callable[[np.random.Generator], Labelled]) -> Piece:
        made = super().row(one, rng, draw)
        return {**made, "visible": np.sort(rng.permutation(self.patches)[: self.seen]).astype(np.int32)}


def partly(image: np.ndarray, visible: np.ndarray, size: int, other: np.ndarray | int = 127) -> np.ndarray:
    """uint8 [H, W, C]: an image with another (or grey) in the place of all but its `visible` patches, which are `size` high and wide."""
    grid = image.shape[0] // size, image.shape[1] // size
    seen = np.isin(np.arange(grid[0] * grid[1]), visible).reshape(grid).repeat(size, axis=0).repeat(size, axis=1)
    return np.where(seen[..., None], image, np.uint8(other))


@dataclasses.dataclass(frozen=True)
class CaptionedPictures(Pictures):
    """Rows with a caption: captions int32 [text_length], padded behind the token that ends it, and `ends`, int32 [], where that is.

    Attributes:
      text_length: the longest caption, in tokens, with its ends.
      padding: the token behind its end; None = that which ends it.
    """

    text_length: int = 32
    padding: int | None = None

    kinds: ClassVar[tuple[str, ...]] = ("captioned-images",)

    @classmethod
    def of_images(cls, objective: Any, model: Any, data: Any) -> Self:
        return dataclasses.replace(super().of_images(objective, model, data), text_length=model.text_length)

    def with_texts(self, tokenizer: Tokenizer, model: Any) -> Self:
        return dataclasses.replace(self, padding=padding_of(tokenizer, model.text_causal))

    @property
    def least(self) -> int:
        return self.values + 4  # the end of a caption

    def slots(self, n: np.ndarray) -> np.ndarray:
        """An image and its caption fill a row."""
        return np.where(np.asarray(n) <= self.values + 4 * self.text_length, self.length, self.length + 1)

    def parted(self, ids: np.ndarray, label: int) -> tuple[np.ndarray, Any]:
        """An image, and its caption, int32 [n]."""
        return super().parted(ids[: self.values], label)[0], ids[self.values :].copy().view("<i4")

    def row(self, one: Any, rng: np.random.Generator, draw: Callable[[np.random.Generator], Any]) -> Piece:
        captions, ends = padded(one[1], self.text_length, self.padding)
        return {**super().row(one, rng, draw), "captions": captions, "ends": ends}


def padding_of(tokenizer: Tokenizer, causal: bool) -> int:
    """What is behind the end of a text that a tower reads. One that is not causal sees it, so that its vectors are those of the weights
    it was imported with only where it is the tokenizer's own, as transformers pads; a causal one does not: its end again."""
    return tokenizer.end_id if causal or tokenizer.pad_id is None else tokenizer.pad_id


def padded(caption: np.ndarray, length: int, padding: int | None = None) -> tuple[np.ndarray, np.int32]:
    """A caption with its ends, int32 [n], as a tower for texts reads it: int32 [length], padded by `padding` (`padding_of`; None = its last
    token); and where its last token is."""
    found = np.full(length, caption[-1] if padding is None else padding, np.int32)
    found[: len(caption)] = caption
    return found, np.int32(len(caption) - 1)
