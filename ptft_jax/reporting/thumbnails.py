"""Small images for pages: enlarged, as PNG, within the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from ptft_jax.environment import needed

_SIDE = 112  # pixels of a picture, at least
_RED, _REDDEST = (230, 30, 20), 0.6  # what patches are marked by, and its largest share of what is seen


def picture(pixels: np.ndarray) -> Any:
    """uint8 [H, W, C] as Pillow's, enlarged by a whole number where it is small."""
    image = needed("PIL.Image", "a picture on a page").fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    times = max(_SIDE // max(image.size), 1)
    return image.resize((image.width * times, image.height * times), 0)  # nearest: pixels stay pixels


def uri(pixels: np.ndarray) -> str:
    """For the `src` of an <img>."""
    return _uri(picture(pixels))


def weighted_uri(pixels: np.ndarray, weights: np.ndarray) -> str:
    """As `uri`, with each patch the redder the larger its weight: float [rows, columns], 0 or more; the largest is as red as can be."""
    image = picture(pixels).convert("RGB")
    share = weights / max(float(weights.max()), np.finfo(np.float64).tiny)
    mask = needed("PIL.Image", "a picture on a page").fromarray(np.rint(_REDDEST * 255 * share).astype(np.uint8))
    image.paste(_RED, mask=mask.resize(image.size, 0))
    return _uri(image)


def _uri(image: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")


def png(image: Any) -> bytes:
    """The bytes of an image of Pillow's."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
