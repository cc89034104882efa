"""Low-rank adaptation of a mixture's experts, each with an update of its own."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.layers import dropout
from ptft_jax.model.moe import ExpertLinear, Routed


class LowRankExperts(nnx.Module):
    """Of expert e: x @ kernel[e] + scale * (dropout(x) @ lora_a[e]) @ lora_b[e], with `lora_a` [E, in, R] and `lora_b`
    [E, R, out]."""

    def __init__(self, layer: ExpertLinear, lora: Any, site: int, key: jax.Array):
        experts, size_in, size_out = layer.kernel.shape
        self.scale, self.dropout, self.site = lora.scale, lora.dropout, site
        bound, dtype = 1 / math.sqrt(size_in), layer.kernel.dtype
        self.lora_a = nnx.Param(jax.random.uniform(key, (experts, size_in, lora.rank), dtype, -bound, bound))
        self.lora_b = nnx.Param(jnp.zeros((experts, lora.rank, size_out), dtype))

    def __call__(self, layer: ExpertLinear, routed: Routed) -> jax.Array:
        """[N, in] to [N, out]."""
        x = dropout(routed.rows, self.dropout, routed.per_row, self.site)
        low = jax.lax.ragged_dot(x, self.lora_a[...].astype(layer.dtype), routed.sizes)
        update = jax.lax.ragged_dot(low, self.lora_b[...].astype(layer.dtype), routed.sizes)
        return layer.plain(routed) + update * self.scale
