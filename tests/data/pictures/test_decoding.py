"""Bytes of images to pixels: what Pillow writes, and what is refused, by hand-made images whose pixels are known."""

import io
import struct
import zlib

import numpy as np
import pytest

from ptft_jax.data import formats
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import Pixels, decoded, fitted
from ptft_jax.errors import UserError

Image = pytest.importorskip("PIL.Image")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = np.asarray([[RED, GREEN], [BLUE, WHITE]], np.uint8)  # no turn or mirror image of it is itself


def written(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def large(corners):
    """Blocks of 16 pixels, which JPEG keeps apart."""
    return Image.fromarray(np.repeat(np.repeat(corners, 16, 0), 16, 1))


def chunked(*chunks):
    """A PNG of chunks."""
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width, height, depth=8, color=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


# By the definition of the tag (EXIF 2.3, 4.6.4): where the stored image's first row and column are in what is seen.
SEEN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
    0: lambda x: x,  # as some cameras write, though the tag has no such value
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("tag", SEEN)
def test_images_stand_as_their_exif_data_say(tag, kind):
    exif = Image.Exif()
    exif[0x0112] = tag
    found = decoded(written(large(CORNERS), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {})))[
        8::16, 8::16
    ]
    assert np.abs(found.astype(int) - SEEN[tag](CORNERS)).max() < 8


def grey(*values):
    return np.asarray([values], np.uint8)[..., None]


# What is written -> its pixels, [1, n, C].
KINDS = {
    "grey": (lambda: Image.fromarray(np.asarray([[0, 77, 255]], np.uint8)), grey(0, 77, 255)),
    "black and white": (lambda: Image.fromarray(np.asarray([[0, 255]], np.uint8)).convert("1"), grey(0, 255)),
    "transparent color": (lambda: Image.fromarray(np.asarray([[(*RED, 255), (*RED, 0), (0, 0, 0, 51)]], np.uint8)), np.asarray([[RED, WHITE, (204,) * 3]])),
    "transparent grey": (lambda: Image.fromarray(np.asarray([[[9, 255], [9, 0]]], np.uint8), "LA"), grey(9, 255)),
    "palette": (lambda: Image.fromarray(CORNERS[:1]).quantize(2), CORNERS[:1]),
    "16 bits": (lambda: Image.fromarray(np.asarray([[0, 257 * 40, 300, 65535]], np.uint16)), grey(0, 40, 1, 255)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_pixels(kind):
    make, expected = KINDS[kind]
    np.testing.assert_array_equal(decoded(written(make())), expected)


def test_a_palette_with_a_transparent_color():
    image = Image.fromarray(CORNERS[:1]).quantize(2)
    index = int(np.asarray(image)[0, 1])
    np.testing.assert_array_equal(decoded(written(image, transparency=index), background=7), [[RED, (7, 7, 7)]])


def test_printers_colors():
    """Cyan 255 is no red at all; Pillow keeps CMYK of JPEG inverted, as Adobe writes it, and reads it so."""
    image = Image.merge("CMYK", [Image.new("L", (16, 16), v) for v in (255, 0, 0, 0)])
    found = decoded(written(image, "JPEG", quality=100))
    assert np.abs(found.astype(int) - (0, 255, 255)).max() < 8


def frames(kind):
    one, two = (Image.new("RGB", (4, 4), color) for color in (RED, BLUE))
    return written(one, kind, save_all=True, append_images=[two])


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
REFUSED = {
    "a bomb": (chunked(header(8_000, 8_000), (b"IDAT", b"")), "8000 x 8000 pixels are more than 50,000,000; max_pixels=N"),
    "a larger bomb": (chunked(header(2**31 - 1, 2**31 - 1), (b"IDAT", b"")), "more than 50,000,000"),
    "an animation": (frames("GIF"), "an animation, or several pages .2 pictures.: expected one"),
    "an animated PNG": (frames("PNG"), "an animation"),
    "pages": (frames("TIFF"), "an animation, or several pages"),
    "32 bits": (written(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "mode F .32 bits., whose range is not known"),
    "a cut PNG": (written(large(CORNERS))[:-40], "a damaged image"),
    "a cut JPEG": (written(NOISE, "JPEG")[:-60], "a damaged image: image file is truncated"),
    "a header alone": (b"\xff\xd8\xff\xe0", "no image of a kind that is read|a damaged image"),
    "text": (b"a text", "no image of a kind that is read .PNG, JPEG"),
    "no pixels": (decoding.packed(np.zeros((0, 4, 3), np.uint8)), "it has no pixels"),
    "floats": (decoding.packed(np.zeros((2, 2, 3))), "an array float64.2, 2, 3.: expected uint8"),
    "a cut array": (decoding.packed(np.zeros((9, 9, 3), np.uint8))[:-1], "a damaged array"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    data, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        decoded(data)


def test_a_bomb_is_not_decoded(monkeypatch):
    """Its pixels are asked for by its header: nothing is loaded."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="8 x 4 pixels are more than 31"):
        decoded(written(Image.new("L", (8, 4))), most=31)


def test_bytes_of_any_source_are_bounded():
    """Those of a Parquet file, say, which no source of images has looked at."""
    encoder = formats.encoder(
        formats.Format("images", "images", {"image": "image"}), tok.ByteTokenizer(), pixels=Pixels(2, 3)
    )
    bomb, message = REFUSED["a bomb"]
    with pytest.raises(UserError, match=f"x.parquet, row 7: {message}"):
        encoder.encode([{"image": {"bytes": bomb, "path": None}}], ["x.parquet, row 7"])
    [found] = encoder.encode([{"image": {"bytes": written(Image.fromarray(CORNERS))}}], ["x"])
    np.testing.assert_array_equal(found.ids, CORNERS.reshape(-1))


def test_fitting():
    """A bar of 8 x 4 pixels, left half dark: its middle, all of it squeezed, or all of it in a frame."""
    bar = np.zeros((4, 8, 1), np.uint8)
    bar[:, 4:] = 200
    middle = fitted(bar, Pixels(4, 1))[..., 0]
    np.testing.assert_array_equal(middle, np.tile([0, 0, 200, 200], (4, 1)))
    squeezed = fitted(bar, Pixels(4, 1, "stretch"))[..., 0]
    assert (squeezed[:, 0] == 0).all() and (squeezed[:, 3] == 200).all() and squeezed.shape == (4, 4)
    framed = fitted(bar, Pixels(4, 3, "pad", background=9))
    assert (framed[0] == 9).all() and (framed[3] == 9).all() and (framed[1:3, 0] == 0).all()
    # Luma by ITU-R 601: 0.299, 0.587, 0.114.
    np.testing.assert_array_equal(fitted(CORNERS, Pixels(2, 1))[..., 0], [[76, 150], [29, 255]])
