"""A mixture of experts made of a dense model (Komatsuzaki et al. 2023, "Sparse Upcycling")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax.combining import writing
from ptft_jax.combining.models import Model
from ptft_jax.config import seeds
from ptft_jax.errors import UserError
from ptft_jax.model import spec as specs
from ptft_jax.model.moe import ROUTER
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten

_DENSE, _EXPERTS = "blocks/mlp/", "blocks/mlp/experts/"


def upcycled(model: Model, options: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parameters by path, and fields of `config.model`: each of `experts` is the dense model's MLP, and a router of random numbers sends
    each token to `experts_per_token` of them. Their weights sum to 1, so the logits are those of the dense model.

    Raises:
      UserError: the model has experts, or MLPs that no experts are like.
    """
    count, each = options["experts"], options["experts_per_token"]
    if each > count:
        raise UserError(f"--experts_per_token={each}: expected at most --experts={count}")
    theirs = model.source.config.as_dict()["model"]
    for wrong, what in (
        (theirs["experts"], f"has {theirs['experts']} experts already"),
        (not theirs["gated"], "has MLPs that are not gated (model.gated=False), and experts are gated MLPs"),
        ("mlp" in theirs["biases"], "has biases in its MLPs (model.biases), and experts have none"),
        (theirs["head"] == "pixels", "scores pixels, and such models have no experts"),
    ):
        if wrong:
            raise UserError(f"--method=upcycle: {model.name} {what}")
    fields = {"experts": count, "experts_per_token": each, "normalize_experts": True}
    params = {}
    for path in model.leaves.shapes:
        array = model.leaves[path]
        if path.startswith(_DENSE):
            path, array = path.replace(_DENSE, _EXPERTS, 1), np.repeat(array[:, None], count, axis=1)
        params[path] = array
    return {**params, **_routers(model, fields, options["seed"])}, fields


def _routers(model: Model, fields: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Random routers, as a model with experts begins with."""
    values = writing.config_of(model, seed=seed)
    values["model"] |= fields
    config = configs.check(values)
    new = Transformer(specs.from_config(config.model, model.source.fields["vocab_size"]))

    def made(key: jax.Array) -> dict[str, jax.Array]:
        return {path: array for path, array in flatten(new.init(key)).items() if path.startswith(ROUTER)}

    return {path: np.asarray(array) for path, array in jax.jit(made)(seeds.key(seed)).items()}
