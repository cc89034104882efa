"""`images:letters`: the letters A to J in the fonts that Matplotlib ships, a notMNIST of our own. Fonts are divided by their family:
those of validation and test are in no other split."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import Image
from ptft_jax.data.pictures.shards import MadeImages
from ptft_jax.data.records.reference import Reference
from ptft_jax.environment import needed
from ptft_jax.errors import nearest

OPTIONS = ("draws", "size", "questions")
LETTERS = "ABCDEFGHIJ"
FONTS: Mapping[str, tuple[str, ...]] = {
    "train": (
        *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
        *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
        *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    ),
    "validation": ("cmss10", "cmb10"),
    "test": (*(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")), "cmr10", "cmtt10"),
}
# How each looks, for captions.
_SLOPES = {
    "": "",
    "-Bold": "bold ",
    "-Oblique": "slanted ",
    "-BoldOblique": "bold slanted ",
    "-Italic": "slanted ",
    "-BoldItalic": "bold slanted ",
}
_STIX = {"": "", "Bol": "bold ", "Italic": "slanted ", "BolIta": "bold slanted "}
STYLES: Mapping[str, str] = {
    **{f"DejaVu{name}{slope}": f"{words}{plain}" for name, plain in (("Sans", "sans"), ("SansMono", "sans"), ("Serif", "serif")) for slope, words in _SLOPES.items()},
    **{f"STIXGeneral{slope}": f"{words}serif" for slope, words in _STIX.items()},
    "cmss10": "sans", "cmb10": "bold serif", "cmr10": "serif", "cmtt10": "serif",
}  # fmt: skip
_DRAWS = 20  # of each letter in each font
_SCALE = 4  # letters are drawn so many times larger, and then made smaller


def splits(reference: Reference) -> dict[str, tuple[Callable[[], MadeImages], str]]:
    """Each split of `FONTS`: {name: (what opens it, words)}. Raises UserError for options that are no counts."""
    draws, size = (_count(reference, name, default) for name, default in (("draws", _DRAWS), ("size", 28)))
    asked = reference.options.get("questions", "no")
    if asked not in ("yes", "no"):
        raise reference.error(f"questions={asked}: expected yes or no{nearest(asked, ('yes', 'no'))}")
    return {
        split: (
            functools.partial(_made, split, draws, size, asked == "yes"),
            f"{len(LETTERS) * len(fonts) * draws:,} letters in {len(fonts)} fonts",
        )
        for split, fonts in FONTS.items()
    }


def _count(reference: Reference, option: str, default: int) -> int:
    text = reference.options.get(option, str(default))
    least = 8 if option == "size" else 1
    if not text.isdecimal() or not least <= int(text) <= 1024:
        raise reference.error(f"{option}={text}: expected a number from {least} to 1024")
    return int(text)


def _made(split: str, draws: int, size: int, asked: bool) -> MadeImages:
    needed("PIL.ImageFont", "images:letters")
    folder = pathlib.Path(needed("matplotlib", "images:letters").get_data_path()) / "fonts" / "ttf"
    fonts = FONTS[split]
    versions = [importlib.metadata.version(name) for name in ("pillow", "matplotlib")]

    def parts(index: int) -> tuple[str, str, int]:
        rest, letter = divmod(index, len(LETTERS))
        draw, font = divmod(rest, len(fonts))
        return LETTERS[letter], fonts[font], draw

    def make(index: int) -> dict[str, Any]:
        letter, font, draw = parts(index)
        pixels = _drawn(
            letter, str(folder / f"{font}.ttf"), size, [LETTERS.index(letter), SEEDS[split], fonts.index(font), draw]
        )
        said: dict[str, str] = {"caption": caption(letter, STYLES[font])}
        if asked:
            said = dict(zip(("question", "answer"), questions(letter, STYLES[font])[draw % 3]))
        return {"image": Image(decoding.packed(pixels)), "label": letter, "font": font, **said}

    def where(index: int) -> str:
        letter, font, draw = parts(index)
        return f"letter {letter} in {font}, draw {draw}"

    key = cache.digest("letters-1", split, str(draws), str(size), *fonts, *versions, *["questions"] * asked)
    return MadeImages(make, len(LETTERS) * len(fonts) * draws, where, key)


def caption(letter: str, style: str) -> str:
    """What is said of a letter in a style of `STYLES`."""
    return f"a {style} letter {letter}"


def questions(letter: str, style: str) -> tuple[tuple[str, str], ...]:
    """Three questions about a letter in a style of `STYLES`, each ending where the answer begins, and their answers."""
    weight = " ".join(word for word in style.split() if word in ("bold", "slanted")) or "plain"
    return ("which letter is it? ", letter), ("which style is it? ", weight), ("sans or serif? ", style.split()[-1])


SEEDS = {split: number for number, split in enumerate(FONTS)}


def _drawn(letter: str, font: str, size: int, key: list[int]) -> np.ndarray:
    """uint8 [size, size]: a letter, light on dark as in MNIST, of random height, place and turn."""
    pillow, fonts = needed("PIL.Image", "images:letters"), needed("PIL.ImageDraw", "images:letters")
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    side = size * _SCALE
    image = pillow.new("L", (side, side), 0)
    # Without the library that shapes texts, so that pixels do not depend on whether it is installed.
    drawn = _font(font, int(side * rng.uniform(0.55, 0.8)))
    place = tuple(side * (0.5 + rng.uniform(-0.08, 0.08, 2)))
    left, top, right, bottom = drawn.getbbox(letter)
    at = (place[0] - (left + right) / 2, place[1] - (top + bottom) / 2)
    fonts.Draw(image).text(at, letter, fill=int(rng.integers(160, 256)), font=drawn)
    turned = image.rotate(float(rng.uniform(-12, 12)), pillow.Resampling.BILINEAR)
    return np.asarray(turned.resize((size, size), pillow.Resampling.BOX))


@functools.lru_cache(64)
def _font(path: str, height: int) -> Any:
    module = needed("PIL.ImageFont", "images:letters")
    return module.truetype(path, height, layout_engine=module.Layout.BASIC)
