"""Bytes of an image to pixels, by Pillow; arrays as NumPy writes them need no Pillow where they have the wanted size already."""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np

from ptft_jax.environment import needed

MOST_PIXELS = 50_000_000  # of one image, unless its source says otherwise
SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"\x93NUMPY")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
_FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "WEBP",
    "TIFF",
    "PPM",
)  # of Pillow: no others are tried on bytes that nobody vouches for
_ORIENTATION = 0x0112  # the EXIF tag
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises for files that are cut, wrong or made to harm, from its decoders and from the parsers of their metadata.
_ERRORS = (
    ArithmeticError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)


class Image(bytes):
    """The bytes of an image: the one value of records that JSON has no type for."""


class BoundedImage(Image):
    """An image whose source has seen that it has no more pixels than it may have."""


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What every image of a run is made to be: see `ptft_jax.data.pictures.options.ImageOptions`; and its caption, whether one that is longer than
    `caption_length` tokens is `cut`."""

    size: int = 0
    channels: int = 3
    fit: str = "crop"
    background: int = 255
    caption_length: int = 0
    cut: bool = False


def looks(data: bytes) -> bool:
    """Whether bytes begin as those of an image do."""
    return data.startswith(SIGNATURES) and (data[:4] != b"RIFF" or data[8:12] == b"WEBP")


def packed(pixels: np.ndarray) -> bytes:
    """An array uint8 as the bytes of an image, as `np.save` writes them."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    return file.getvalue()


def decoded(data: bytes, *, most: int = MOST_PIXELS, background: int = 255) -> np.ndarray:
    """uint8 [H, W, C], C = 1 (grey) or 3: an image upright, as its EXIF data say, on a background where it is transparent.

    Raises:
      ValueError: it is cut or damaged, has more than `most` pixels (none is decoded before that is known), several pictures, or
        pixels of a depth that has no one meaning in 8 bits.
    """
    if data.startswith(b"\x93NUMPY"):
        return _of_array(data, most)
    image_module = needed("PIL.Image", "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # on its own bound, which `most` stands for, and on metadata that nothing reads
            with image_module.open(io.BytesIO(data), formats=_FORMATS) as image:
                return _pixels(image, most, background)
    except image_module.UnidentifiedImageError:
        raise ValueError(f"no image of a kind that is read ({', '.join(_FORMATS)})") from None
    except image_module.DecompressionBombError:
        raise ValueError(f"more than {most:,} pixels; max_pixels=N in the options of the source allows more") from None
    except Refused:
        raise
    except _ERRORS as e:
        raise ValueError(f"a damaged image: {e or type(e).__name__}") from e


class Refused(ValueError):
    """An image that is whole, and is not taken."""


def _bounded(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise Refused(
            f"{width} x {height} pixels are more than {most:,}; max_pixels=N in the options of the source allows more"
        )
    if not height * width:
        raise Refused("it has no pixels")


def _of_array(data: bytes, most: int) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"a damaged array: {e}") from e
    if found.ndim == 2:
        found = found[..., None]
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] not in (1, 3):
        raise Refused(f"an array {found.dtype}{list(found.shape)}: expected uint8, [H, W], [H, W, 1] or [H, W, 3]")
    _bounded(*found.shape[:2], most)
    return found


def _pixels(image: Any, most: int, background: int) -> np.ndarray:
    _bounded(image.height, image.width, most)  # said by the header alone
    if (
        image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    ):  # MPO: a phone's JPEG, with further ones behind the first
        raise Refused(f"an animation, or several pages ({image.n_frames} pictures): expected one")
    mode = image.mode
    if mode in ("I", "F"):
        raise Refused(f"pixels of mode {mode} (32 bits), whose range is not known: expected 8 or 16 bits per channel")
    image.load()
    turned = _upright(image)
    if mode in _GREY_16:
        # Pillow's own conversion cuts off all above 255.
        return np.rint(np.asarray(turned).astype(np.float64) / 257).astype(np.uint8)[..., None]
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        turned = _opaque(turned.convert("RGBA"), background)
    grey = mode in ("1", "L", "LA", "La")
    found = np.asarray(turned.convert("L" if grey else "RGB"))
    return found[..., None] if grey else found


def _upright(image: Any) -> Any:
    """The image as it is to be seen (Pillow's `ImageOps.exif_transpose`, which fails where other EXIF data than this tag are damaged)."""
    transpose = needed("PIL.Image", "an image").Transpose
    turns = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except _ERRORS as e:
        raise Refused(f"EXIF data that cannot be read ({e}): which side is up is not known") from e
    return image if turn is None else image.transpose(turn)


def _opaque(image: Any, background: int) -> Any:
    behind = needed("PIL.Image", "an image").new("RGBA", image.size, (background,) * 3 + (255,))
    behind.alpha_composite(image)
    return behind


def fitted(pixels: np.ndarray, to: Pixels) -> np.ndarray:
    """uint8 [size, size, channels] of an image uint8 [H, W, C]: resized with Pillow's bilinear filter, which averages where it makes
    an image smaller."""
    height, width, channels = pixels.shape
    size = to.size
    if channels != to.channels:
        pixels = _grey(pixels) if to.channels == 1 else np.repeat(pixels, to.channels, axis=2)
    if (height, width) == (size, size):
        return pixels
    image_module = needed("PIL.Image", f"an image of {width} x {height} pixels, to be made {size} x {size},")
    image = image_module.fromarray(pixels[..., 0] if to.channels == 1 else pixels)
    if to.fit == "pad":
        scale = size / max(height, width)
        inner = max(round(width * scale), 1), max(round(height * scale), 1)
        framed = image_module.new(
            image.mode, (size, size), (to.background,) * to.channels if to.channels > 1 else to.background
        )
        framed.paste(
            image.resize(inner, image_module.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2)
        )
        found = np.asarray(framed)
    else:
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = None if to.fit == "stretch" else (left, top, left + side, top + side)
        found = np.asarray(image.resize((size, size), image_module.Resampling.BILINEAR, box=box))
    return found[..., None] if to.channels == 1 else found


def _grey(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 1] of [H, W, 3]: luma by ITU-R 601, as Pillow has it."""
    weighed = pixels.astype(np.int64) @ np.asarray([19595, 38470, 7471])
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]
