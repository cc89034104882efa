"""Images in NumPy's files: .npz with images and labels, or .npy with images alone."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import Image
from ptft_jax.data.pictures.shards import MadeImages
from ptft_jax.data.records import files
from ptft_jax.data.records.reference import Reference
from ptft_jax.errors import listed

SUFFIXES = (".npz", ".npy")
_IMAGES = ("images", "image", "x", "data")
_LABELS = ("labels", "label", "y", "targets", "target")


def splits(reference: Reference, path: pathlib.Path) -> Mapping[str, MadeImages]:
    """The images of each split: of arrays x_train, y_train, x_test, ... (Keras) or train_images, train_labels, ... (MedMNIST) those;
    of images and labels, x and y, all as "train".

    Raises:
      UserError: no such arrays, or of another form or type.
    """
    opened = files.File.open(str(path))
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        have = {"images": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as e:
        raise reference.error(f"cannot be read as NumPy's {path.suffix}: {e}") from e
    found = {}
    for split, (before, after) in _forms().items():
        images = [name for name in (before + word + after for word in _IMAGES) if name in have]
        if images:
            labels = [name for name in (before + word + after for word in _LABELS) if name in have]
            found[split or "train"] = _made(
                reference, opened, have[images[0]], labels and have[labels[0]], images[0], labels
            )
    if not found:
        raise reference.error(
            f"expected arrays images and labels (or x and y; with _train or train_ for splits); it has:{listed(have)}"
        )
    return found


def _forms() -> dict[str, tuple[str, str]]:
    """Name of a split -> what stands before and after the word for its arrays."""
    words = [word for words in files.ALIASES.values() for word in words]
    found = {"": ("", "")}
    for word in words:
        found |= {word: ("", f"_{word}"), f"{word} ": (f"{word}_", "")}
    return found


def _made(
    reference: Reference, opened: files.File, images: np.ndarray, labels: Any, name: str, named: list[str]
) -> MadeImages:
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        raise reference.error(
            f"{name} {list(images.shape)}: channels come last, [N, H, W, C]: transpose it by (0, 2, 3, 1)"
        )
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise reference.error(
            f"{name} is {images.dtype}{list(images.shape)}: expected uint8, [N, H, W] or [N, H, W, C] with C = 1 or 3, values from 0 to 255"
        )
    classes: np.ndarray | None = None
    if named:
        classes = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if classes.shape != (len(images),) or classes.dtype.kind not in "iuU":
            raise reference.error(
                f"{named[0]} is {labels.dtype}{list(labels.shape)}: expected a whole number, or a text, for each of {len(images):,} images"
            )

    def make(index: int) -> dict[str, Any]:
        record: dict[str, Any] = {"image": Image(decoding.packed(images[index]))}
        return record | ({} if classes is None else {"label": classes[index].item()})

    key = cache.digest("arrays-1", opened.digest, name, *named)
    return MadeImages(make, len(images), lambda index: f"{name}[{index}]", key, opened.noted(), checked=False)
