"""A model of text that reads images, made of one of text and a ViT (Liu et al. 2023, "Visual Instruction Tuning")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax.combining import writing
from ptft_jax.combining.models import Model
from ptft_jax.config import seeds
from ptft_jax.errors import UserError
from ptft_jax.model import spec as specs
from ptft_jax.model import tower_settings
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten

_OPTIONS = {"skip": "tower_skip", "projector": "projector", "merge": "projector_merge"}


def joined(models: tuple[Model, Model], options: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parameters by path, and fields of `config.model`: the text model's, with the ViT as its tower and a projector of random numbers between. What the
    ViT has its head for, and its last blocks that are left out (`skip`), is not in it. Of texts without an image it gives what it gave before.

    Raises:
      UserError: the first is no model that writes text, or the second no plain one of images.
    """
    text, images = models
    theirs, own = text.source.fields, images.source.fields
    skip, merge = options["skip"], options["merge"]
    across = own["image_size"] // own["patch_size"]
    for model, wrong, what in (
        (text, theirs["image_size"], "reads images: the first --run is the model of text"),
        (text, theirs["head"] != "lm" or not theirs["causal"], "writes no text (model.head='lm', model.causal=True)"),
        (text, theirs["tower"], "has a tower already"),
        (text, theirs["mup_base_width"], "has muP (model.mup_base_width), of which a projector knows nothing"),
        (images, not own["image_size"], "reads texts: the second --run is the model of images"),
        (images, own["mup_base_width"], "has muP (model.mup_base_width), whose rates are those of a run of its own"),
        (images, own["experts"], "has experts: a tower is a plain model of images"),
        (images, skip >= own["layers"], f"has {own['layers']} blocks, of which --skip={skip} leaves none"),
        (images, across % merge, f"has {across} patches in a row, which --merge={merge} does not divide"),
    ):
        if wrong:
            raise UserError(f"--method=tower: {model.name} {what}")
    fields = {"tower": tower_settings.of(own), **{name: options[option] for option, name in _OPTIONS.items()}}
    values = writing.config_of(text, seed=options["seed"])
    values["model"] |= fields | {"param_dtype": "float32"}
    config = configs.check(values)
    model = Transformer(specs.from_config(config.model, theirs["vocab_size"]))
    same = {path: text.leaves[path] for path in text.leaves.shapes}
    return {**same, **dict(_tower(images, skip)), **_projector(model, options["seed"])}, fields


def _tower(images: Model, skip: int) -> Iterator[tuple[str, np.ndarray]]:
    """A ViT's parameters with their paths in a tower."""
    for path in images.leaves.shapes:
        if path.startswith("blocks/"):
            array = images.leaves[path]
            for number in range(len(array) - skip):
                yield path.replace("blocks/", f"tower/layer_{number}/", 1), array[number]
        elif path.startswith("embed/"):
            yield f"tower/{path}", images.leaves[path]
        elif path.startswith("final_norm/") and not skip:
            yield path.replace("final_norm/", "tower/norm/", 1), images.leaves[path]


def _projector(model: Transformer, seed: int) -> dict[str, np.ndarray]:
    """As a model begins with it."""

    def made(key: jax.Array) -> dict[str, jax.Array]:
        return {path: array for path, array in flatten(model.init(key)).items() if path.startswith("projector/")}

    return {path: np.asarray(array) for path, array in jax.jit(made)(seeds.key(seed)).items()}
