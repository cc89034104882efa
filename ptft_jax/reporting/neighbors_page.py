"""The page of `ptft eval --probe=knn --probe_html`: images beside those that a model takes to be most like them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting import thumbnails
from ptft_jax.reporting.page import Page


def write(name: str, values: Mapping[str, Any], found: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Writes the page, whole or not at all.

    Args:
      name: of the run.
      values, found: what `ptft_jax.evaluation.probes.evaluate` returns, and its `neighbors`.
    """
    page = Page("Nearest images", f"{name}, {values['data']}: {values['split']}")
    page.table([{k: v for k, v in values.items() if k not in ("data", "split")}])
    page.text(
        f"Some of the {values['examples']:,} images of {values['split']}, drawn at random, and beside each the nearest of the "
        f"{values['learned_from']:,} that are learned from, by the cosine of their features."
    )
    for one in found:
        own = f"{one['number']}: is {one['class']}"
        beside = [
            (thumbnails.uri(near["image"]), f"{near['class']}, {near['cosine']:.3f}{_other(one, near)}")
            for near in one["nearest"]
        ]
        page.pictures([(thumbnails.uri(one["image"]), own), *beside])
    page.write(path, footer="")


def _other(one: Mapping[str, Any], near: Mapping[str, Any]) -> str:
    return "" if near["class"] == one["class"] else ", another class"
