"""How images are varied in training: each a pure function of the image and of its row's random numbers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ptft_jax.data.pictures import operations

_TRIES = 10  # of a random part, before the middle is taken
_ERASED = (0.02, 1 / 3)  # shares of the area (Zhong et al. 2020)
_ERASED_RATIO = 3.3
_LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is done to an image, in this order; fields as of `ptft_jax.data.pictures.options.AugmentOptions`. By default nothing."""

    crop: float = 1.0
    crop_ratio: float = 4 / 3
    shift: int = 0
    turn: float = 0.0
    scale: float = 0.0
    flip: float = 0.0
    color: float = 0.0
    operations: int = 0
    magnitude: float = 9.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return bool(self.mixup or self.cutmix)

    def varied(self, image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 [size, size, C] of an image uint8 [H, H, C]; without a random part its middle, where it is larger."""
        image = self._part(image, size, rng)
        if self.shift:
            image = _shifted(image, rng.integers(-self.shift, self.shift + 1, 2))
        if self.turn or self.scale:
            angle = np.deg2rad(rng.uniform(-self.turn, self.turn))
            image = _turned(image, angle, np.exp(rng.uniform(-1, 1, 2) * np.log1p(self.scale)))
        if self.flip and rng.random() < self.flip:
            image = image[:, ::-1]
        if self.color:
            image = _colored(image, 1 + rng.uniform(-self.color, self.color, 3))
        for _ in range(self.operations):
            image = operations.one(image, self.magnitude, rng)
        if self.erase and rng.random() < self.erase:
            image = _erased(image, rng)
        return np.ascontiguousarray(image)

    def _part(self, image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """A part of random size, place and form made as large as the model reads (Szegedy et al. 2015, section 6)."""
        side = image.shape[0]
        if self.crop == 1:
            at = (side - size) // 2
            return image[at : at + size, at : at + size]
        top, left, height, width = 0, 0, side, side
        for _ in range(_TRIES):
            area = rng.uniform(self.crop, 1) * side * side
            ratio = np.exp(rng.uniform(-np.log(self.crop_ratio), np.log(self.crop_ratio)))
            tall, wide = round(float(np.sqrt(area / ratio))), round(float(np.sqrt(area * ratio)))
            if 0 < tall <= side and 0 < wide <= side:
                top, left = int(rng.integers(0, side - tall + 1)), int(rng.integers(0, side - wide + 1))
                height, width = tall, wide
                break
        return resized(image, (top, top + height), (left, left + width), size)

    def mixed(self, one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """(two images mixed, the share of the first): by their mean (Zhang et al. 2018, "mixup"), or a rectangle of the second in the
        first (Yun et al. 2019, "CutMix"); where both are asked for, each as often."""
        cut = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
        share = float(rng.beta(*[self.cutmix if cut else self.mixup] * 2))
        if not cut:
            mean = one.astype(np.float32) * np.float32(share) + other.astype(np.float32) * np.float32(1 - share)
            return np.rint(mean).astype(np.uint8), share
        height, width = one.shape[:2]
        tall, wide = (int(n * np.sqrt(1 - share)) for n in (height, width))
        middle = int(rng.integers(0, height)), int(rng.integers(0, width))
        rows = slice(max(middle[0] - tall // 2, 0), min(middle[0] + tall // 2, height))
        columns = slice(max(middle[1] - wide // 2, 0), min(middle[1] + wide // 2, width))
        made = one.copy()
        made[rows, columns] = other[rows, columns]
        inside = max(rows.stop - rows.start, 0) * max(columns.stop - columns.start, 0)
        return made, 1 - inside / (height * width)


def of(section: Any, labelled: bool) -> Augment:
    """That of `config.data.augment`, which reads only the settings that matter; `labelled`: of images that have classes, which may be
    mixed."""
    idle = set() if section.crop < 1 else {"crop_ratio"}
    idle |= set() if section.operations else {"magnitude"}
    idle |= set() if labelled else {"mixup", "cutmix"}
    return Augment(**{f.name: section[f.name] for f in dataclasses.fields(Augment) if f.name not in idle})


def resized(image: np.ndarray, rows: tuple[float, float], columns: tuple[float, float], size: int) -> np.ndarray:
    """uint8 [size, size, C]: a part of an image, made larger or smaller by the triangle filter, as Pillow's BILINEAR with `box`.

    Sums are taken in one order, not by a library of matrix products, whose order may differ between machines.
    """
    (down, tall), (across, wide) = (_weights(n, *span, size) for n, span in zip(image.shape, (rows, columns)))
    top, left = int(down.min()), int(across.min())
    part = image[top : int(down.max()) + 1, left : int(across.max()) + 1].astype(np.float32)
    part = _summed(np.ascontiguousarray(part.swapaxes(0, 1)), across - left, wide)
    return _summed(np.ascontiguousarray(part.swapaxes(0, 1)), down - top, tall).astype(np.uint8)


def _summed(image: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 [size, W, C], whole levels from 0 to 255: of each row the sum of some of an image's [H, W, C] (`_weights`)."""
    found = image[places[0]] * weights[0][:, None, None]
    for place, weight in zip(places[1:], weights[1:]):
        found += image[place] * weight[:, None, None]
    return np.clip(np.rint(found, out=found), 0, 255, out=found)


@functools.lru_cache(4096)
def _weights(count: int, start: float, stop: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64, weights float32), each [taps, size]: which of `count` pixels make each of `size` that stand for those from `start` to
    `stop`, and what they weigh."""
    scale = (stop - start) / size
    reach = max(scale, 1.0)
    middles = start + (np.arange(size) + 0.5) * scale
    places = np.floor(middles - reach).astype(np.int64) + np.arange(int(np.ceil(2 * reach)) + 2)[:, None]
    weights = np.maximum(1 - np.abs(places + 0.5 - middles) / reach, 0) * ((places >= 0) & (places < count))
    used = weights.any(axis=1)
    weights = weights / weights.sum(axis=0)
    return np.clip(places, 0, count - 1)[used], weights[used].astype(np.float32)


def _shifted(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    rows, columns = (np.clip(np.arange(n) - int(d), 0, n - 1) for n, d in zip(image.shape, by))
    return image[rows][:, columns]


def _turned(image: np.ndarray, angle: float, factors: np.ndarray) -> np.ndarray:
    """An image turned about its middle, and made larger by one factor in height and one in width, with bilinear weights. Edges are
    repeated."""
    height, width = image.shape[:2]
    middle = np.asarray([(height - 1) / 2, (width - 1) / 2])
    down, across = np.meshgrid(np.arange(height) - middle[0], np.arange(width) - middle[1], indexing="ij")
    sine, cosine = np.sin(angle), np.cos(angle)
    # Where each pixel is from: turned back, then made smaller.
    places = [(cosine * down + sine * across) / factors[0], (cosine * across - sine * down) / factors[1]]
    (top, low), (left, over) = (
        np.divmod(np.clip(place + m, 0, n - 1), 1) for place, m, n in zip(places, middle, image.shape)
    )
    pixels = image.astype(np.float32)
    found = np.zeros_like(pixels)
    for by, vertical in ((0, 1 - low), (1, low)):
        for aside, horizontal in ((0, 1 - over), (1, over)):
            rows = np.minimum(top.astype(np.int64) + by, height - 1)
            columns = np.minimum(left.astype(np.int64) + aside, width - 1)
            found += pixels[rows, columns] * (vertical * horizontal).astype(np.float32)[..., None]
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _colored(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast (about the mean grey) and, of colors, saturation (about each pixel's grey), each by a factor."""
    found = image.astype(np.float32) * np.float32(factors[0])
    mean = np.float32(_grey(found).mean(dtype=np.float64))
    found = mean + (found - mean) * np.float32(factors[1])
    if image.shape[2] == 3:
        grey = _grey(found)[..., None]
        found = grey + (found - grey) * np.float32(factors[2])
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """[H, W]: luma."""
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    return pixels[..., 0] * _LUMA[0] + pixels[..., 1] * _LUMA[1] + pixels[..., 2] * _LUMA[2]


def _erased(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a rectangle of noise (Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1)."""
    height, width, channels = image.shape
    for _ in range(_TRIES):
        area = rng.uniform(*_ERASED) * height * width
        ratio = np.exp(rng.uniform(-np.log(_ERASED_RATIO), np.log(_ERASED_RATIO)))
        tall, wide = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < tall < height and 0 < wide < width:
            top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
            made = image.copy()
            made[top : top + tall, left : left + wide] = rng.integers(0, 256, (tall, wide, channels), np.uint8)
            return made
    return image
