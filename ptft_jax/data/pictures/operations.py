"""The operations of RandAugment (Cubuk et al. 2020), of images uint8 [H, W, C]."""

from __future__ import annotations

import numpy as np

_FILL = 128  # where nothing of the image is
_MOST = 10.0  # the largest magnitude


def one(image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """The image after one operation, drawn at random, as strong as its `magnitude` from 0 to 10, in either direction."""
    strength = magnitude / _MOST * (1 if rng.random() < 0.5 else -1)
    number = int(rng.integers(0, 13))
    height, width = image.shape[:2]
    if number >= 7:
        angle = np.deg2rad(30 * strength)
        matrices = (
            ((np.cos(angle), np.sin(angle), 0), (-np.sin(angle), np.cos(angle), 0)),
            ((1, 0, 0), (0.3 * strength, 1, 0)),
            ((1, 0.3 * strength, 0), (0, 1, 0)),
            ((1, 0, 0.45 * strength * height), (0, 1, 0)),
            ((1, 0, 0), (0, 1, 0.45 * strength * width)),
        )
        return _moved(image, matrices[number - 7]) if number < 12 else image
    if number == 0:
        return _spread(image)
    if number == 1:
        return _equalized(image)
    if number == 2:
        return image & np.uint8(256 - (1 << round(4 * abs(strength))))
    if number == 3:
        return np.where(image >= 256 * (1 - abs(strength)), 255 - image, image).astype(np.uint8)
    factor = np.float32(1 + 0.9 * strength)
    pixels = image.astype(np.float32)
    middle = (np.float32(0), np.float32(pixels.mean(dtype=np.float64)), pixels.mean(axis=2, keepdims=True))[number - 4]
    return np.clip(np.rint(middle + (pixels - middle) * factor), 0, 255).astype(np.uint8)


def _spread(image: np.ndarray) -> np.ndarray:
    """Each channel from its darkest to its brightest over the whole range."""
    low, high = (f(image, axis=(0, 1)).astype(np.float32) for f in (np.min, np.max))
    wide = np.where(high > low, 255 / np.maximum(high - low, 1), 1).astype(np.float32)
    return np.where(high > low, np.clip(np.rint((image - low) * wide), 0, 255), image).astype(np.uint8)


def _equalized(image: np.ndarray) -> np.ndarray:
    """Each channel with levels that are all about as frequent."""
    found = np.empty_like(image)
    for channel in range(image.shape[2]):
        counts = np.cumsum(np.bincount(image[..., channel].reshape(-1), minlength=256))
        first = counts[counts > 0][0]
        table = np.clip((counts - first) * 255 // max(int(counts[-1] - first), 1), 0, 255).astype(np.uint8)
        found[..., channel] = table[image[..., channel]] if counts[-1] > first else image[..., channel]
    return found


def _moved(image: np.ndarray, matrix: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """The image through an affine map of (row, column) about its middle, that says where each pixel is from; the nearest is taken."""
    height, width = image.shape[:2]
    rows, columns = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    (a, b, c), (d, e, f) = matrix
    from_rows = np.rint(a * rows + b * columns + c + (height - 1) / 2).astype(np.int64)
    from_columns = np.rint(d * rows + e * columns + f + (width - 1) / 2).astype(np.int64)
    inside = (from_rows >= 0) & (from_rows < height) & (from_columns >= 0) & (from_columns < width)
    found = image[np.clip(from_rows, 0, height - 1), np.clip(from_columns, 0, width - 1)]
    return np.where(inside[..., None], found, _FILL).astype(np.uint8)
