"""Low-rank updates of frozen random matrices, scaled by learned vectors (Kopiczko et al. 2024, "VeRA", eq. 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.config import seeds
from ptft_jax.model.layers import Linear, PerRow, dropout

D, B = "adapter/vera_d", "adapter/vera_b"


def shared(seed: int, rank: int, size_in: int, size_out: int) -> tuple[jax.Array, jax.Array]:
    """(a [in, R], b [R, out]), float32, uniform with the variances of Kaiming initialization (He et al. 2015).

    The same for every layer: smaller layers have the first rows of the a, and columns of the b, of larger ones (each a
    to its own scale, sqrt(6 / in)). They are no parameters: they are made from the seed where they are used, so there is no
    copy a layer in memory nor in checkpoints. The numbers are part of what an adapter is, so the generator is fixed here
    whatever JAX is set to.
    """
    with jax.threefry_partitionable(True):  # a number depends on the seed and its place alone
        down, up = jax.random.split(seeds.key(seed, impl="threefry2x32"))
        a = jax.random.uniform(down, (size_in, rank), jnp.float32, -1.0, 1.0)
        b = jax.random.uniform(up, (size_out, rank), jnp.float32, -1.0, 1.0)
    return a * math.sqrt(6 / size_in), b.T * math.sqrt(6 / rank)


class Scaled(nnx.Module):
    """plain(x) + (((dropout(x) @ a) * vera_d) @ b) * vera_b, with `vera_d` [R] and `vera_b` [out], float32, learned."""

    def __init__(self, layer: Linear, vera: Vera, site: int):
        self.seed, self.dropout, self.site = vera.seed, vera.dropout, site
        self.vera_d = nnx.Param(jnp.full((vera.rank,), vera.d_init, jnp.float32))
        self.vera_b = nnx.Param(jnp.zeros((layer.kernel.shape[1],), jnp.float32))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        d, out = self.vera_d[...].astype(layer.dtype), self.vera_b[...].astype(layer.out)
        a, b = shared(self.seed, d.shape[0], *layer.kernel.shape)
        low = layer.project(dropout(x, self.dropout, rows, self.site), a.astype(layer.dtype)) * d
        return layer.plain(x) + layer.product(low, b) * out


@dataclasses.dataclass(frozen=True)
class Vera(LowRankMethod):
    """Learns two vectors a layer that scale one pair of random matrices.

    Attributes:
      rank: R, of the random matrices; it may be above the layers' sizes.
      d_init: what `vera_d` starts at.
      dropout: rate on the adapter's input.
      seed: of the random matrices.
      targets: regular expressions on whole layer paths.
    """

    rank: int
    d_init: float
    dropout: float
    seed: int
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.vera"
    learning_rate: ClassVar[float] = 4e-3  # Kopiczko et al. 2024, appendix A, instruction tuning (ten times LoRA's)
    scale: ClassVar[float] = 1.0

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Scaled(layer, self, site)

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """a * d and b * b's vector."""
        a, b = shared(self.seed, self.rank, *leaves["kernel"].shape[-2:])
        return a * float32(leaves[D])[..., None, :], b * float32(leaves[B])[..., None, :]
