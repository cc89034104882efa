"""Growing the vocabulary: new rows in the token embedding, and in a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.model.spec import ModelSpec
from ptft_jax.params.rules import flatten, unflatten

# The axis of the vocabulary in the leaves that have one.
EMBEDDING = "embed/tokens/embedding"
AXES = {EMBEDDING: 0, "head/kernel": 1, "head/scores/kernel": 1, "head/bias": 0}


def grow(params: Mapping[str, Any], known: int, rows: int, new: str, spec: ModelSpec, key: jax.Array) -> dict[str, Any]:
    """Parameters with `rows` rows of the vocabulary, those from `known` on re-initialized. Traceable, so the result can be
    compiled with sharded outputs.

    Args:
      known: how many tokens there were. A published embedding often has more rows than its tokenizer has tokens; these
        were never trained, and are re-initialized, too.
      new: "mean", the mean of the known rows, by which a new token is at first about as likely as an average one
        (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"); or "normal", drawn as the model's
        own initial parameters are.
    """
    flat = flatten(params)
    for site, (path, axis) in enumerate(AXES.items()):
        if path not in flat:
            continue
        old = jnp.moveaxis(flat[path], axis, 0)[:known]
        shape = (rows - known, *old.shape[1:])
        if new == "normal" and path != "head/bias":
            std = spec.init_std if path == EMBEDDING else spec.output_std
            made = std * jax.random.normal(jax.random.fold_in(key, site), shape, jnp.float32)
        else:
            made = jnp.broadcast_to(jnp.mean(old.astype(jnp.float32), axis=0), shape)
        flat[path] = jnp.moveaxis(jnp.concatenate([old, made.astype(old.dtype)]), 0, axis)
    return unflatten(flat)
