"""Low-rank adaptation of linear layers (Hu et al. 2021, "LoRA", eq. 3), of tables of vectors and of experts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, float32
from ptft_jax.adapters.lora_embedding import LowRankTable
from ptft_jax.adapters.lora_experts import LowRankExperts
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Embedding, Linear, PerRow, dropout
from ptft_jax.model.moe import ExpertLinear

A, B = "adapter/lora_a", "adapter/lora_b"


class LowRank(nnx.Module):
    """plain(x) + scale * (dropout(x) @ lora_a) @ lora_b, with `lora_a` [in, R] and `lora_b` [R, out]."""

    def __init__(self, layer: Linear, lora: Lora, site: int, key: jax.Array):
        size_in, size_out = layer.kernel.shape
        self.scale, self.dropout, self.site = lora.scale, lora.dropout, site
        # Uniform(-1/sqrt(in), 1/sqrt(in)) and zeros, as in the authors' code: the update starts at zero.
        bound = 1 / math.sqrt(size_in)
        dtype = layer.kernel.dtype
        self.lora_a = nnx.Param(jax.random.uniform(key, (size_in, lora.rank), dtype, -bound, bound))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out), dtype))

    def update(self, layer: Linear, x: jax.Array) -> jax.Array:
        """scale * x @ lora_a @ lora_b."""
        low = jnp.dot(x, self.lora_a[...].astype(layer.dtype))
        return jnp.dot(low, self.lora_b[...].astype(layer.dtype)) * self.scale

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        return layer.plain(x) + self.update(layer, dropout(x, self.dropout, rows, self.site))


@dataclasses.dataclass(frozen=True)
class Lora(LayerMethod):
    """Adds low-rank updates to the linear layers, tables and experts whose path matches one of `targets`.

    Attributes:
      rank: R, the rank of each update.
      alpha: the update is scaled by alpha / R.
      rank_stabilized: scale by alpha / sqrt(R) instead (Kalajdzievski 2023, "rsLoRA").
      dropout: rate on the adapter's input; tables have none.
      targets: regular expressions on whole layer paths, such as `blocks/attention/(query|value)`, `embed/tokens` or
        `blocks/mlp/experts/(gate|up|down)`.
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    dropout: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.lora"
    kinds: ClassVar[tuple[type, ...]] = (Linear, Embedding, ExpertLinear)
    # Dettmers et al. 2023, "QLoRA", table 9 (7B and 13B); the same for GPT-2 in Hu et al. 2021, table 11.
    learning_rate: ClassVar[float] = 2e-4

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def module(self, layer: Any, path: str, site: int, key: jax.Array) -> nnx.Module:
        made = {Linear: LowRank, Embedding: LowRankTable, ExpertLinear: LowRankExperts}[type(layer)]
        return made(layer, self, site, key)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        if self.rank > min(shape):
            raise UserError(f"tune.lora.rank: {self.rank} is above the size of {path} {shape}")

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """kernel + scale * lora_a @ lora_b, or the same of a table."""
        name = "embedding" if "embedding" in leaves else "kernel"
        return {name: updated(leaves[name], leaves[A], leaves[B], self.scale)}


def updated(kernel: jax.Array, lora_a: jax.Array, lora_b: jax.Array, scale: float) -> jax.Array:
    """kernel + scale * lora_a @ lora_b, float32 [..., in, out]."""
    return float32(kernel) + scale * jnp.matmul(float32(lora_a), float32(lora_b), precision="highest")
