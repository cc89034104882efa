"""Low-rank adaptation of tables of vectors, as of tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.layers import Embedding


class LowRankTable(nnx.Module):
    """embedding + scale * lora_a @ lora_b, with `lora_a` [rows, R] and `lora_b` [R, D]; nothing is dropped.

    It is the table that is adapted, so a head that is tied to it sees the update, too (PEFT's `ensure_weight_tying`), and
    merging leaves the model the same.
    """

    def __init__(self, table: Embedding, lora: Any, site: int, key: jax.Array):
        rows, width = table.embedding.shape
        self.scale = lora.scale
        # Zeros and a standard normal distribution, as in the authors' code: the other way round than in a linear layer,
        # because a row of `lora_a` trains only where its token occurs.
        dtype = table.embedding.dtype
        self.lora_a = nnx.Param(jnp.zeros((rows, lora.rank), dtype))
        self.lora_b = nnx.Param(jax.random.normal(key, (lora.rank, width), dtype))

    def rows(self, table: Embedding, ids: jax.Array) -> jax.Array:
        """The vectors [..., D] of ids int [...]."""
        low = jnp.take(self.lora_a[...], ids, axis=0).astype(table.dtype)
        return table.plain(ids) + table.project(low, self.lora_b[...].astype(table.dtype)) * self.scale

    def scores(self, table: Embedding, x_BTD: jax.Array) -> jax.Array:
        """x times every row, float32 [B, T, rows]."""
        low = table.project(x_BTD, self.lora_b[...].astype(x_BTD.dtype).T) * self.scale
        a_VR = self.lora_a[...].astype(x_BTD.dtype)
        return table.plain_scores(x_BTD) + table.scored(low, a_VR.T)
