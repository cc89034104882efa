"""Images that stand before prompts, as a model's tower reads them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.augment import Augment
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError
from ptft_jax.model import tower_settings
from ptft_jax.model.spec import IMAGE, ModelSpec


def read(loaded: Any, images: Sequence[Any], prompts: int) -> list[np.ndarray] | None:
    """uint8 [size, size, channels] for each of so many prompts, made as those that a loaded run (`ptft_jax.runs.loading.Loaded`) learned from were;
    None of no images.

    Args:
      images: one, or one for each prompt: files, or arrays uint8 [H, W, C].

    Raises:
      UserError: the model reads none; another number of them; a file that is missing or no image.
    """
    if isinstance(images, (str, os.PathLike)):
        raise UserError(f"images = {images!r}: expected a list, got one: [{images!r}]")
    if not len(images):
        return None
    spec = loaded.model.spec
    if not spec.tower:
        raise UserError("--image: the model reads texts alone (model.tower = ()): leave it out")
    if len(images) not in (1, prompts):
        raise UserError(f"--image: {len(images)} for {prompts} prompts; give one for each --prompt, or one for all")
    own, kept = tower_settings.settings(spec.tower), loaded.source.config.data.images
    size = kept.size or own["image_size"]
    to = decoding.Pixels(size, own["channels"], kept.fit, kept.background)
    rng = np.random.default_rng(0)  # which varies nothing
    found = [
        Augment().varied(decoding.fitted(_pixels(one, to.background), to), own["image_size"], rng) for one in images
    ]
    return found * prompts if len(found) == 1 else found


def _pixels(image: Any, background: int) -> np.ndarray:
    if not isinstance(image, (str, os.PathLike)):
        return decoding.decoded(decoding.packed(np.asarray(image)), background=background)
    path = pathlib.Path(image).expanduser()
    if not path.is_file():
        raise UserError(f"--image={image}: there is no such file")
    try:
        return decoding.decoded(path.read_bytes(), background=background)
    except ValueError as e:
        raise UserError(f"--image={image}: {e}") from e


def placed(spec: ModelSpec, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Prompts with the positions of an image behind what the tokenizer has texts start with, as rows of training have them."""
    before, image = len(tokenizer.prefix_ids), [IMAGE] * tower_settings.count(spec.tower, spec.projector_merge)
    return [[*ids[:before], *image, *ids[before:]] for ids in prompts]
