"""A contact sheet: images as they are kept, and beside each what a step sees of it, with its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.builders.pictures import partly
from ptft_jax.environment import needed
from ptft_jax.reporting import thumbnails
from ptft_jax.reporting.page import templates

_COLUMNS = 8
_GAP = 4


class Shown(NamedTuple):
    """A row on a sheet.

    Attributes:
      title: which row it is.
      kept, seen: uint8 [H, W, C], before and after what training does to it.
      words: its class or its caption, or what of it the model sees.
    """

    title: str
    kept: np.ndarray
    seen: np.ndarray
    words: str


def shown(
    title: str, kept: np.ndarray, row: dict[str, np.ndarray], classes: Sequence[str], builder: Any, tokenizer: Any
) -> Shown:
    """A row of images (`ptft_jax.data.builders.pictures`) beside what it is made of."""
    seen, words = row.get("images", row["inputs"]), ""
    if "visible" in row:
        seen = partly(seen, row["visible"], builder.patch_size)
        words = f"{len(row['visible'])} of {builder.patches} patches are seen"
    if "captions" in row:
        words = tokenizer.decode(row["captions"][: int(row["ends"])].tolist())
    if "images" in row:  # what is learned in brackets
        ids, weights = row["inputs"].tolist(), row["weights"]
        read = [token for token, there in zip(ids, row["segments"]) if there and token >= 0]
        learned = row["targets"][weights > 0].tolist()
        before = tokenizer.decode(read[: len(read) - len(learned) + 1])
        words = f"{before}[{tokenizer.decode(learned)}]"
    elif "targets" in row:
        words = _named(int(row["targets"]), classes)
    if "share" in row:
        share = float(row["share"])
        words = f"{share:.2f} {words} + {1 - share:.2f} {_named(int(row['other']), classes)}"
    return Shown(title, kept, seen, words)


def _named(number: int, classes: Sequence[str]) -> str:
    return f"class {number}" + (f" ({classes[number]})" if number < len(classes) else "")


def png(rows: Sequence[Shown]) -> bytes:
    """The sheet as a PNG: of each row the image as it is kept above what is seen of it."""
    module = needed("PIL.Image", "a contact sheet")
    pairs = [(thumbnails.picture(row.kept), thumbnails.picture(row.seen)) for row in rows]
    wide, tall = (max(image.size[n] for pair in pairs for image in pair) for n in (0, 1))
    columns = min(_COLUMNS, len(pairs))
    lines = -(-len(pairs) // columns)
    sheet = module.new("RGB", (columns * (wide + _GAP) + _GAP, lines * (2 * tall + 3 * _GAP) + _GAP), (255, 255, 255))
    for n, pair in enumerate(pairs):
        line, column = divmod(n, columns)
        for k, image in enumerate(pair):
            at = _GAP + column * (wide + _GAP), _GAP + line * (2 * tall + 3 * _GAP) + k * (tall + _GAP)
            sheet.paste(image.convert("RGB"), at)
    return thumbnails.png(sheet)


def page(title: str, rows: Sequence[Shown]) -> str:
    """The sheet as a page of HTML that needs nothing else; text is escaped."""
    data = [
        {"title": r.title, "words": r.words, "kept": thumbnails.uri(r.kept), "seen": thumbnails.uri(r.seen)}
        for r in rows
    ]
    return templates().get_template("sheet.html").render(title=title, rows=data)
