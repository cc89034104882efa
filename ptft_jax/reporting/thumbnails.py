"""Small images for pages: enlarged, as PNG, within the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from ptft_jax.environment import needed

_SIDE = 112  # pixels of a picture, at least


def picture(pixels: np.ndarray) -> Any:
    """uint8 [H, W, C] as Pillow's, enlarged by a whole number where it is small."""
    image = needed("PIL.Image", "a picture on a page").fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    times = max(_SIDE // max(image.size), 1)
    return image.resize((image.width * times, image.height * times), 0)  # nearest: pixels stay pixels


def uri(pixels: np.ndarray) -> str:
    """For the `src` of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png(picture(pixels))).decode("ascii")


def png(image: Any) -> bytes:
    """The bytes of an image of Pillow's."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
