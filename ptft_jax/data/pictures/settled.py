"""What follows for data from a model of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import fields_of
from ptft_jax.config.plugins import tables
from ptft_jax.data.options import DataOptions
from ptft_jax.errors import UserError
from ptft_jax.model import tower_settings
from ptft_jax.model.spec import wordless


def complete(values: dict[str, Any]) -> None:
    """Fills in of a config's values what a model of images decides: the length of a row, and how images are kept; nothing of others.

    Raises:
      UserError: they say something else.
    """
    model, data = values["model"], values["data"]
    known = tables(tuple(values["plugins"])).objectives.get(values["objective"]["name"])
    if known is not None and known.tower and tower_settings.contradictions(model) == [] and model["tower"]:
        _complete_tower(values)
        return
    if not model["image_size"]:
        return
    images, length = data["images"], fields_of(DataOptions)["length"].default
    if data["length"] not in (length, model["max_length"]):
        raise UserError(
            f"config.data.length = {data['length']!r}: of images a row has model.max_length = {model['max_length']!r} tokens; leave it at {length}"
        )
    _complete_pixels(images, model)
    length = 0 if wordless(model) else model["text_length"]
    if images["caption_length"] not in (0, length):
        expected = f"model.text_length {length!r}" if length else "0, the model reads no captions (model.text_layers)"
        raise UserError(f"config.data.images.caption_length = {images['caption_length']!r}: expected {expected}")
    images["caption_length"] = length
    data["length"] = model["max_length"]


def complete_anew(values: dict[str, Any]) -> None:
    """As `complete`, of values that were complete before another objective or length was put in: what followed from those follows from these."""
    known = tables(tuple(values["plugins"])).objectives.get(values["objective"]["name"])
    if values["model"]["tower"]:
        followed = ("caption_length",) if known is not None and known.tower else ("caption_length", "size", "channels")
        values["data"]["images"].update(dict.fromkeys(followed, 0))
    complete(values)


def _complete_tower(values: dict[str, Any]) -> None:
    """As `complete`, of a model of text with a tower for images that learns what is said of them."""
    model, data = values["model"], values["data"]
    _complete_pixels(data["images"], tower_settings.settings(model["tower"]))
    taken = tower_settings.positions(model)
    if data["length"] <= taken + 1:
        raise UserError(
            f"config.data.length = {data['length']!r}: an image takes {taken} positions of a row (model.tower, model.projector_merge), and a text "
            f"needs some: expected more than {taken + 1}"
        )
    length = data["length"] - taken + 1  # the last token is no input
    if data["images"]["caption_length"] not in (0, length):
        raise UserError(
            f"config.data.images.caption_length = {data['images']['caption_length']!r}: expected {length}, what an image leaves of data.length"
        )
    data["images"]["caption_length"] = length


def _complete_pixels(images: dict[str, Any], model: Mapping[str, Any]) -> None:
    """Fills in how images are kept for a model of images, or a tower, with these settings."""
    if images["channels"] not in (0, model["channels"]):
        raise UserError(
            f"config.data.images.channels = {images['channels']!r}: expected model.channels {model['channels']!r}"
        )
    if images["size"] and images["size"] < model["image_size"]:
        raise UserError(
            f"config.data.images.size = {images['size']!r}: expected at least model.image_size {model['image_size']!r}"
        )
    if model["channels"] not in (1, 3):
        raise UserError(f"config.model.channels = {model['channels']!r}: data have images of 1 (grey) or 3 (colors)")
    images["channels"], images["size"] = model["channels"], images["size"] or model["image_size"]
