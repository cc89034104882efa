"""A tower for texts beside one for images: a small transformer whose vectors are compared with those of images."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.attention import View
from ptft_jax.model.block import Block
from ptft_jax.model.dot_product import Seen
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import Linear, Norm
from ptft_jax.model.spec import ModelSpec


def text_spec(spec: ModelSpec) -> ModelSpec:
    """The small transformer of `TextTower`."""
    return spec.beside(
        spec.text_layers,
        spec.text_width,
        spec.text_heads,
        spec.text_mlp_width,
        max_length=spec.text_length,
        causal=spec.text_causal,
        positions="learned",
        embedding_norm=False,
        image_size=0,
        text_layers=0,
    ).resolved


def text_flops(spec: ModelSpec) -> float:
    """Matrix-multiply FLOPs of one forward pass of the tower for texts, per text, as `ModelSpec.flops_per_token` counts them."""
    return text_spec(spec).flops_per_token(spec.text_length) * spec.text_length if spec.text_layers else 0.0


class TextTower(nnx.Module):
    """Tokens to one vector: causal, read where the text ends, and projected (Radford et al. 2021, "CLIP", section 2.4); or with all tokens
    seeing all, padding too, read at the last position, and projected with a bias (Zhai et al. 2023, "SigLIP").

    It also holds what scores of pairs are made by: `scale`, the logarithm of what cosines are multiplied by, and with `pair_bias` the
    `bias` that is added, float [1] each.
    """

    def __init__(self, spec: ModelSpec, size: int, rngs: nnx.Rngs):
        """`size`: of the vector."""
        self.spec = own = text_spec(spec)
        self.embed = TokenEmbed(own, rngs)
        for number in range(own.layers):
            setattr(self, f"layer_{number}", Block(own, rngs))
        self.norm = Norm(own)
        self.projection = Linear(own.width, size, own, rngs, bias=not own.causal, std=spec.init_std, scores=True)
        dtype = jnp.dtype(spec.param_dtype)
        self.scale = nnx.Param(jnp.full((1,), math.log(10.0 if spec.pair_bias else 1 / 0.07), dtype))
        self.bias = nnx.Param(jnp.full((1,), -10.0, dtype)) if spec.pair_bias else None

    def __call__(self, tokens_BT: jax.Array, last_B: jax.Array) -> jax.Array:
        """float32 [B, size] of texts int [B, T] that are padded behind their ends, which stand at `last_B`, int [B]."""
        b, length = tokens_BT.shape
        positions_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (b, length))
        x_BTD = self.embed(Inputs(tokens_BT, positions_BT))
        view = View(Seen(causal=self.spec.causal), None)
        for number in range(self.spec.layers):
            x_BTD, _, _ = getattr(self, f"layer_{number}")(x_BTD, view)
        x_BTD = self.norm(x_BTD)
        if self.spec.causal:
            return self.projection(jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0])
        return self.projection(x_BTD[:, -1])
