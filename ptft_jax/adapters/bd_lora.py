"""LoRA of which one factor is block-diagonal, so that it lies on devices as the layer does (Wang et al. 2025, "BD-LoRA")."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32, layers, matching
from ptft_jax.adapters.low_rank import LowRankMethod, block_diagonal, blockwise, whole_blocks
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow, dropout
from ptft_jax.params.rules import matches

A, B = "adapter/lora_a", "adapter/lora_b"
ROWS = ("blocks/(attention/out|mlp/down)",)


class Blocks(nnx.Module):
    """plain(x) + scale * (dropout(x) @ lora_a) @ lora_b, where the first is of blocks, `lora_a` [K, in / K, R / K] and
    `lora_b` [R, out], or else the second, `lora_a` [in, R] and `lora_b` [K, R / K, out / K]."""

    def __init__(self, layer: Linear, method: BdLora, of_inputs: bool, site: int, key: jax.Array):
        (size_in, size_out), rank, count = layer.kernel.shape, method.rank, method.blocks
        self.scale, self.dropout, self.site, self.of_inputs = method.scale, method.dropout, site, of_inputs
        shape = (count, size_in // count, rank // count) if of_inputs else (size_in, rank)
        bound = 1 / math.sqrt(shape[-2])
        self.lora_a = nnx.Param(jax.random.uniform(key, shape, layer.kernel.dtype, -bound, bound))
        shape = (rank, size_out) if of_inputs else (count, rank // count, size_out // count)
        self.lora_b = nnx.Param(jnp.zeros(shape, layer.kernel.dtype))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        kept, a = dropout(x, self.dropout, rows, self.site), self.lora_a[...].astype(layer.dtype)
        if self.of_inputs:
            update = layer.product(blockwise(kept, a), self.lora_b[...])
        else:
            update = blockwise(layer.project(kept, a), self.lora_b[...].astype(layer.dtype), layer.out)
        return layer.plain(x) + update * self.scale


@dataclasses.dataclass(frozen=True)
class BdLora(LowRankMethod):
    """LoRA with blocks: in layers that devices hold by their inputs `lora_a` is block-diagonal, in others `lora_b`.

    Attributes:
      rank: R.
      alpha: the update is scaled by alpha / R.
      blocks: K, on the diagonal; as many as devices that share a layer.
      dropout: rate on the adapter's input.
      targets: regular expressions on whole layer paths.
      rows: those of the targets whose `lora_a` is block-diagonal.
    """

    rank: int
    alpha: float
    blocks: int
    dropout: float
    targets: tuple[str, ...]
    rows: tuple[str, ...] = ROWS

    field: ClassVar[str] = "tune.bd_lora"
    learning_rate: ClassVar[float] = 1e-4  # of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B)

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self.alpha / self.rank

    def of_inputs(self, path: str) -> bool:
        """Whether the block-diagonal factor of the targeted layer at `path` is the one of its inputs."""
        return matches(self.rows, path)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Blocks(layer, self, self.of_inputs(path), site, key)

    def check(self, shapes: Mapping[str, Any]) -> None:
        super().check(shapes)
        every = layers(shapes)
        for pattern in (p for p in self.rows if p not in ROWS):  # the default may name layers that are no targets
            if not any(map(self.targeted, matching(pattern, every, f"config.{self.field}.rows"))):
                raise UserError(f"config.{self.field}.rows: {pattern!r} names none of the targets")

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        size, what = (shape[0], "inputs") if self.of_inputs(path) else (shape[1], "outputs")
        whole_blocks(self.field, "blocks", self.blocks, self.rank, f"tune.bd_lora.rank, {self.rank}")
        whole_blocks(self.field, "blocks", self.blocks, size, f"the {size} {what} of {path}")
        if self.rank > min(shape):
            raise UserError(f"config.{self.field}.rank: {self.rank} is above the size of {path} {shape}")

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Both as whole matrices, zeros outside the blocks."""
        a, b = float32(leaves[A]), float32(leaves[B])
        return (block_diagonal(a), b) if a.ndim > b.ndim else (a, block_diagonal(b))
