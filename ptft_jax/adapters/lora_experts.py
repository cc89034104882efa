"""Low-rank adaptation of a mixture's experts, each with an update of its own."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.dispatch import Routed
from ptft_jax.model.layers import dropout
from ptft_jax.model.layout import HIDDEN
from ptft_jax.model.moe import ExpertLinear


class LowRankExperts(nnx.Module):
    """Of expert e: x @ kernel[e] + scale * (dropout(x) @ lora_a[e]) @ lora_b[e], with `lora_a` [E, in, R] and `lora_b`
    [E, R, out]."""

    def __init__(self, layer: ExpertLinear, lora: Any, site: int, key: jax.Array):
        experts, size_in, size_out = layer.kernel.shape
        self.scale, self.dropout, self.site, self.size_in = lora.scale, lora.dropout, site, size_in
        bound, dtype = 1 / math.sqrt(size_in), layer.kernel.dtype
        self.lora_a = nnx.Param(jax.random.uniform(key, (experts, size_in, lora.rank), dtype, -bound, bound))
        self.lora_b = nnx.Param(jnp.zeros((experts, lora.rank, size_out), dtype))

    def __call__(self, layer: ExpertLinear, routed: Routed) -> jax.Array:
        """[N, in] to [N, out]."""
        x = self._dropped(routed)
        low = jax.lax.ragged_dot(x, self.lora_a[...].astype(layer.dtype), routed.sizes)
        update = jax.lax.ragged_dot(low, self.lora_b[...].astype(layer.dtype), routed.sizes)
        return layer.plain(routed) + update * self.scale

    def _dropped(self, routed: Routed) -> jax.Array:
        """The rows [N, in] after dropout. Where a device has some of their numbers, it draws for all, as one device would."""
        x = routed.rows
        if x.shape[-1] == self.size_in or not self.dropout:
            return dropout(x, self.dropout, routed.per_row, self.site)
        kept = dropout(jnp.ones((x.shape[0], self.size_in), x.dtype), self.dropout, routed.per_row, self.site)
        return x * jax.lax.dynamic_slice_in_dim(kept, jax.lax.axis_index(HIDDEN) * x.shape[-1], x.shape[-1], 1)
