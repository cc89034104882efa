"""The kernel's own numbers times a low-rank matrix, added to it (Huang et al. 2025, "HiRA", eq. 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, float32
from ptft_jax.adapters.lora import A, B, LowRank
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow, dropout


class Hadamard(LowRank):
    """plain(x) + dropout(x) @ (kernel * (lora_a @ lora_b)), entry by entry, `lora_a` [in, R] and `lora_b` [R, out]."""

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        a, b = self.factors()
        factor = jnp.matmul(a, b, precision="highest")
        kept = dropout(x, self.dropout, rows, self.site)
        return layer.plain(x) + layer.product(kept, layer.kernel[...] * factor)


@dataclasses.dataclass(frozen=True)
class Hira(LayerMethod):
    """Adds to each kernel its product, entry by entry, with a matrix of rank R; the update's own rank is not bounded by R.

    Attributes:
      rank: R.
      dropout: rate on the adapter's input.
      targets: regular expressions on whole layer paths.
    """

    rank: int
    dropout: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.hira"
    # Of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B): the factor is relative to kernels of small numbers.
    learning_rate: ClassVar[float] = 4.5e-3
    scale: ClassVar[float] = 1.0
    init: ClassVar[str] = "uniform"  # of `LowRank`: lora_a, with lora_b zero

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Hadamard(layer, self, site, key)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        if self.rank > min(shape):
            raise UserError(f"config.{self.field}.rank: {self.rank} is above the size of {path} {shape}")

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """kernel * (1 + lora_a @ lora_b)."""
        factor = jnp.matmul(float32(leaves[A]), float32(leaves[B]), precision="highest")
        return {"kernel": float32(leaves["kernel"]) * (1 + factor)}
