"""Low-rank updates with one matrix alone: inputs are added up in shards (Kang & Yin 2024, "MiSS", section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow, dropout

BLOCK = "adapter/block"


class Sharded(nnx.Module):
    """plain(x) + s @ block, `block` [R, out], which starts at zero, and s [..., R] the sums of the inputs (after dropout)
    whose numbers are the same modulo R."""

    def __init__(self, layer: Linear, miss: Miss, site: int):
        self.dropout, self.site = miss.dropout, site
        self.block = nnx.Param(jnp.zeros((miss.rank, layer.kernel.shape[1]), layer.kernel.dtype))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        rank = self.block.shape[0]
        kept = dropout(x, self.dropout, rows, self.site)
        kept = jnp.pad(kept, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % rank)])
        sums = jnp.sum(kept.reshape(*x.shape[:-1], -1, rank), axis=-2)
        return layer.plain(x) + layer.product(sums, self.block[...])


@dataclasses.dataclass(frozen=True)
class Miss(LowRankMethod):
    """Adds one learned matrix to every R rows of a kernel.

    Attributes:
      rank: R; a last shard may be shorter.
      dropout: rate on the adapter's input.
      targets: regular expressions on whole layer paths.
    """

    rank: int
    dropout: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.miss"
    learning_rate: ClassVar[float] = 1e-4  # of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B)
    scale: ClassVar[float] = 1.0

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Sharded(layer, self, site)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        if self.rank > shape[0]:
            raise UserError(f"config.{self.field}.rank: {self.rank} is above the {shape[0]} inputs of {path}")

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Which shard an input is in, as ones and zeros, and the block."""
        *lead, size, _ = leaves["kernel"].shape
        shard = jnp.eye(self.rank)[jnp.arange(size) % self.rank]
        return jnp.broadcast_to(shard, (*lead, size, self.rank)), float32(leaves[BLOCK])
