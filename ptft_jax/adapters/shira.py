"""A few of a kernel's own numbers are learned, in places drawn once (Bhardwaj et al. 2024, "SHiRA", section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, float32
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow

WEIGHT, PLACES = "adapter/weight", "adapter/places"


def scattered(weight: jax.Array, places: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[in, out] of zeros, but for `weight` [N] at `places` int32 [N], counted row by row."""
    flat = jnp.zeros((shape[0] * shape[1],), weight.dtype).at[places].add(weight, mode="promise_in_bounds")
    return flat.reshape(shape)


class Sparse(nnx.Module):
    """x @ (kernel + what is scattered over it): `weight` [R (in + out)] starts at zero, `places` int32 are fixed."""

    def __init__(self, layer: Linear, rank: int, key: jax.Array):
        size_in, size_out = layer.kernel.shape
        count = rank * (size_in + size_out)
        drawn = jax.random.choice(key, size_in * size_out, (count,), replace=False)
        self.weight = nnx.Param(jnp.zeros((count,), layer.kernel.dtype))
        self.places = nnx.Param(jnp.sort(drawn).astype(jnp.int32))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        return layer.plain(x) + layer.product(x, scattered(self.weight[...], self.places[...], layer.kernel.shape))


@dataclasses.dataclass(frozen=True)
class Shira(LayerMethod):
    """Adds learned numbers in as many places of a kernel as LoRA of a rank would have parameters.

    Attributes:
      rank: R: a layer has R (in + out) of them. The update's own rank is not bounded by R.
      targets: regular expressions on whole layer paths.
    """

    rank: int
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.shira"
    learning_rate: ClassVar[float] = 3e-4  # of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B)
    fixed: ClassVar[str] = f".*/{PLACES}"

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Sparse(layer, self.rank, key)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        most = shape[0] * shape[1] // sum(shape)
        if self.rank > most:
            raise UserError(
                f"config.{self.field}.rank: {self.rank} makes more places than {path} {shape} has numbers; at most {most}"
            )

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The kernel with `weight` added in its places."""
        kernel, weight, places = float32(leaves["kernel"]), float32(leaves[WEIGHT]), jnp.asarray(leaves[PLACES])
        one = lambda weight, places: scattered(weight, places, kernel.shape[-2:])  # noqa: E731
        return {"kernel": kernel + (jax.vmap(one)(weight, places) if kernel.ndim == 3 else one(weight, places))}
