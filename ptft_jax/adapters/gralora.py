"""Low-rank updates of the blocks of a kernel, each with its own (Jung et al. 2025, "GraLoRA", eq. 5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32
from ptft_jax.adapters.low_rank import LowRankMethod, block_diagonal, blockwise, whole_blocks
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow, dropout

A, B = "adapter/gralora_a", "adapter/gralora_b"
GENERAL_A, GENERAL_B = "adapter/general_a", "adapter/general_b"


def exchanged(low: jax.Array, blocks: int) -> jax.Array:
    """[..., K R]: part j of what block i of the inputs has becomes part i of what block j of the outputs gets."""
    parts = low.reshape(*low.shape[:-1], blocks, blocks, -1)
    return jnp.swapaxes(parts, -3, -2).reshape(low.shape)


class Granular(nnx.Module):
    """plain(x) + scale * (the K x K blocks' updates + dropout(x) @ general_a @ general_b).

    `gralora_a` [K, in / K, R] and `gralora_b` [K, R, out / K]: of block (i, j) the update is the product of columns of a[i]
    and rows of b[j], R / K of each. `general_a` [in, H] and `general_b` [H, out] are plain LoRA's, where H is above 0.
    """

    def __init__(self, layer: Linear, method: Gralora, site: int, key: jax.Array):
        (size_in, size_out), count, rank = layer.kernel.shape, method.blocks, method.rank
        self.scale, self.dropout, self.site = method.scale, method.dropout, site
        first, second = jax.random.split(key)

        def uniform(key: jax.Array, *shape: int) -> nnx.Param:
            bound = 1 / math.sqrt(shape[-2])
            return nnx.Param(jax.random.uniform(key, shape, layer.kernel.dtype, -bound, bound))

        self.gralora_a = uniform(first, count, size_in // count, rank)
        self.gralora_b = nnx.Param(jnp.zeros((count, rank, size_out // count), layer.kernel.dtype))
        hybrid = method.hybrid_rank
        self.general_a = uniform(second, size_in, hybrid) if hybrid else None
        self.general_b = nnx.Param(jnp.zeros((hybrid, size_out), layer.kernel.dtype)) if hybrid else None

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        kept = dropout(x, self.dropout, rows, self.site)
        low = exchanged(blockwise(kept, self.gralora_a[...].astype(layer.dtype)), self.gralora_a.shape[0])
        update = blockwise(low, self.gralora_b[...].astype(layer.dtype), layer.out)
        if self.general_a is not None:
            update = update + layer.product(
                layer.project(kept, self.general_a[...].astype(layer.dtype)), self.general_b[...]
            )
        return layer.plain(x) + update * self.scale


@dataclasses.dataclass(frozen=True)
class Gralora(LowRankMethod):
    """Adds a low-rank update of its own to each of K x K blocks of a kernel.

    Attributes:
      rank: R, of the updates together; each block has one of rank R / K.
      alpha: the update is scaled by alpha / (R + H).
      blocks: K, on each side of a kernel.
      hybrid_rank: H, of a plain LoRA beside it; 0 = none.
      dropout: rate on the adapter's input.
      targets: regular expressions on whole layer paths.
    """

    rank: int
    alpha: float
    blocks: int
    hybrid_rank: int
    dropout: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.gralora"
    learning_rate: ClassVar[float] = 2e-4  # of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B)

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self.alpha / (self.rank + self.hybrid_rank)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Granular(layer, self, site, key)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        whole_blocks(self.field, "blocks", self.blocks, self.rank, f"tune.gralora.rank, {self.rank}")
        for size, what in zip(shape, ("inputs", "outputs")):
            whole_blocks(self.field, "blocks", self.blocks, size, f"the {size} {what} of {path}")
        if self.rank + self.hybrid_rank > min(shape):
            raise UserError(
                f"config.{self.field}.rank: {self.rank}, with hybrid_rank = {self.hybrid_rank}, is above the size of {path} {shape}"
            )

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """[..., in, K R + H] and [..., K R + H, out]."""
        left = exchanged(block_diagonal(float32(leaves[A])), self.blocks)
        right = block_diagonal(float32(leaves[B]))
        if GENERAL_A not in leaves:
            return left, right
        general = float32(leaves[GENERAL_A]), float32(leaves[GENERAL_B])
        return jnp.concatenate([left, general[0]], -1), jnp.concatenate([right, general[1]], -2)
