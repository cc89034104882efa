"""`images:digits`: the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (Alpaydin & Kaynak 1998, UCI)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import Image
from ptft_jax.data.pictures.shards import MadeImages
from ptft_jax.data.records.reference import Reference
from ptft_jax.environment import needed

OPTIONS = ()


def splits(reference: Reference) -> dict[str, tuple[Callable[[], MadeImages], str]]:
    """All of them, as what is trained on: {name: (what opens them, words)}."""
    return {"train": (_all, "all 1,797 digits")}


def _all() -> MadeImages:
    datasets = needed("sklearn.datasets", "images:digits")
    found = datasets.load_digits()
    # Counts of 0 to 16 in fields of 4 x 4 bits.
    return made(np.rint(found.images * (255 / 16)).astype(np.uint8), found.target)


def made(images: np.ndarray, labels: np.ndarray) -> MadeImages:
    """Digits, uint8 [N, H, W], each with its label."""

    def make(index: int) -> dict[str, Any]:
        return {"image": Image(decoding.packed(images[index])), "label": int(labels[index])}

    return MadeImages(make, len(images), "digit {}".format, _key(images.tobytes()))


@functools.lru_cache(1)
def _key(data: bytes) -> str:
    return cache.digest("digits-1", str(len(data)), data.hex())
