"""The part of a report on images: what runs make of them (`ptft_jax.evaluation.gallery`)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.pictures import decoding
from ptft_jax.reporting import thumbnails
from ptft_jax.reporting.page import Page

# Kinds of images that are shown, and what is said above them.
_KINDS = {
    "mistake": "the most confident mistakes",
    "example": "the first images",
    "hidden": "what is seen, what is predicted of the rest, and the image",
}
_MAPS = {"attention": "attention", "rollout": "attention rollout"}
_PARTS = {"seen": "seen", "made": "predicted", "image": "true"}
_MOST = 7  # evaluations that are shown of an image, which fill a line with its ends


def add(page: Page, rows: Sequence[Mapping[str, Any]]) -> None:
    """Images beside what each run makes of them: the most confident mistakes, the first of the set, with where the model looks, and hidden
    parts, at the end and at evaluations on the way.

    Args:
      rows: of runs, each with its "name" and its "pictures".
    """
    if any(row["pictures"] for row in rows):
        page.heading("Images")
    for row in rows:
        for kind, said in _KINDS.items():
            if found := [one for one in row["pictures"] if one["kind"] == kind]:
                maps = "; beside each, the redder a patch, the more of it is read" if "attention" in found[0] else ""
                page.text(f"{row['name']}, {found[0]['set']}: {said}{maps}")
                page.pictures([pair for one in found for pair in _shown(one)])
        if found := [one for one in row["pictures"] if one["kind"] == "progress"]:
            _progress(page, row["name"], found)


def _shown(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    if one["kind"] == "hidden":
        return [_part(one, name) for name in ("seen", "made", "image")]
    right = "" if one["class"] == one["named"] else f", is {one['class']}"
    pixels = _pixels(one["image"])
    maps = [
        (thumbnails.weighted_uri(pixels, np.asarray(one[name])), f"{words}, {np.sum(one[name]):.0%} on patches")
        for name, words in _MAPS.items()
        if name in one
    ]
    return [(thumbnails.uri(pixels), f"{one['named']} {one['probability']:.0%}{right}"), *maps]


def _progress(page: Page, name: str, found: Sequence[Mapping[str, Any]]) -> None:
    """A line of each image: what is seen of it, what was predicted at evaluations, and the image."""
    steps = sorted({one["step"] for one in found})
    chosen = sorted({steps[round(n)] for n in np.linspace(0, len(steps) - 1, _MOST)})
    some = "" if len(chosen) == len(steps) else f" {len(chosen)} of {len(steps)}"
    page.text(f"{name}, {found[0]['set']}: what was predicted at{some or ' all'} evaluations")
    for number in sorted({one["number"] for one in found}):
        own = [one for one in found if one["number"] == number]
        ends = [_part(one, part) for part in ("seen", "image") for one in own if part in one]
        made = [(_uri(one["made"]), f"step {one['step']:,}") for one in own if one["step"] in chosen]
        page.pictures([*ends[:1], *made, *ends[1:]])


def _part(one: Mapping[str, Any], name: str) -> tuple[str, str]:
    return _uri(one[name]), f"{one['number']}: {_PARTS[name]}"


def _uri(image: str) -> str:
    return thumbnails.uri(_pixels(image))


def _pixels(image: str) -> np.ndarray:
    return decoding.decoded(base64.b64decode(image))
