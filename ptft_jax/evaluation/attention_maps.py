"""Where a model of images looks: how much its head reads of each patch, by the attention of the last layer and of all layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.model.inputs import Inputs


def maps(model: Any, params: Any, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """(attention, rollout) of images, the mean over heads, each float32 [B, rows of patches, columns of patches].

    What begins it is what the head reads of the last hidden states: the class token, each patch as much where it is the mean of the patches, or
    what a learned query attends to. Attention is that of the last softmax: of the learned query, else of the last layer. Rollout follows it
    through all layers, half of each token's state being what attention brings and half what was there (Abnar & Zuidema 2020, "Quantifying
    Attention Flow in Transformers", section 3). What goes to tokens that are no patches, such as the class token, is left out, so sums are at
    most 1.

    Args:
      model: `ptft_jax.model.transformer.Transformer` with a head for classes or a vector.
      inputs: images, and where rows have adapters of their own, these.
    """
    spec = model.spec
    weights_LBTT = model.attention_weights(params, inputs)
    read_BT = model.read_weights(params, model.hidden(params, inputs))

    def through(read_BT: jax.Array, weights_BTT: jax.Array) -> jax.Array:
        return jnp.einsum("bt,bts->bs", read_BT, weights_BTT, precision=jax.lax.Precision.HIGHEST)

    def mixed(read_BT: jax.Array, weights_BTT: jax.Array) -> tuple[jax.Array, None]:
        both = (weights_BTT + jnp.eye(weights_BTT.shape[-1])) / 2
        return through(read_BT, both / jnp.sum(both, axis=-1, keepdims=True)), None

    last_BT = read_BT if spec.pooling == "attention" else through(read_BT, weights_LBTT[-1])
    rolled_BT, _ = jax.lax.scan(mixed, read_BT, weights_LBTT, reverse=True)
    side = spec.image_size // spec.patch_size
    attention, rollout = (x[:, spec.before_patches :].reshape(-1, side, side) for x in (last_BT, rolled_BT))
    return attention, rollout
