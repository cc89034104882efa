"""Orthogonal finetuning: a learned rotation of a linear layer's input (Qiu et al. 2023, "Controlling Text-to-Image
Diffusion by Orthogonal Finetuning", section 3.2)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, float32
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow

SKEW = "adapter/skew"


def rotations(skew: jax.Array, size: int) -> jax.Array:
    """Orthogonal matrices [..., n, n] by the Cayley transform (I - Q) (I + Q)^-1 = 2 (I + Q)^-1 - I of skew-symmetric Q.

    Args:
      skew: float32 [..., n (n - 1) / 2], Q above its diagonal, row by row.
      size: n.
    """
    above = jnp.zeros((*skew.shape[:-1], size, size), skew.dtype).at[..., *np.triu_indices(size, 1)].set(skew)
    q = above - jnp.swapaxes(above, -1, -2)
    one = jnp.eye(size, dtype=skew.dtype)
    return 2 * _inverse(one + q) - one


@jax.custom_jvp
def _inverse(a: jax.Array) -> jax.Array:
    """The inverses of matrices [..., n, n] whose symmetric part is the identity, by Gauss-Jordan elimination in place.

    What is left of such a matrix after some steps has a symmetric part of at least the identity (that is so of each Schur
    complement), so every pivot is at least 1 and no rows change places. Not `jnp.linalg`: where several batches of matrices
    are factored in one program on a CPU, they wait for each other's threads, and have been seen never to end (jax 0.10.2).
    """
    places = jnp.arange(a.shape[-1])

    def eliminate(k: jax.Array, a: jax.Array) -> jax.Array:
        across, down = places == k, (places == k)[:, None]
        column = jax.lax.dynamic_index_in_dim(a, k, axis=-1)
        row = jax.lax.dynamic_index_in_dim(a, k, axis=-2)
        row = jnp.where(across, 1, row) / jax.lax.dynamic_index_in_dim(row, k, axis=-1)
        rest = jnp.where(across, 0, a) - column * row
        return jnp.where(down, row, rest)

    return jax.lax.fori_loop(0, a.shape[-1], eliminate, a)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    found = _inverse(*primals)
    product = functools.partial(jnp.matmul, precision="highest")
    return found, -product(found, product(tangents[0], found))


class Rotated(nnx.Module):
    """plain(x R), R [in, in] of orthogonal blocks n by n on its diagonal, by `skew` [in / n, n (n - 1) / 2].

    The input is rotated, not the kernel (Qiu et al. 2025, "Orthogonal Finetuning Made Scalable", section 4): this costs n
    operations a number of it, and no gradient has the size of the kernel. `skew` starts at zero, R at the identity, and is
    kept in float32, as is the arithmetic from it to R: rounded blocks would not be orthogonal.
    """

    def __init__(self, layer: Linear, size: int):
        self.size = size
        self.skew = nnx.Param(jnp.zeros((layer.kernel.shape[0] // size, size * (size - 1) // 2), jnp.float32))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        blocks = rotations(self.skew[...], self.size).astype(x.dtype)
        parts = x.reshape(-1, len(blocks), self.size)
        return layer.plain(jnp.einsum("rbi,bij->rbj", parts, blocks).reshape(x.shape))


@dataclasses.dataclass(frozen=True)
class Oft(LayerMethod):
    """Rotates the inputs of targeted layers in blocks, which keeps the angles between their neurons.

    Attributes:
      block_size: n; it divides the inputs of every target.
      targets: regular expressions on whole layer paths.
    """

    block_size: int
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.oft"
    # The rate of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B), where OFT is second to rsLoRA alone.
    learning_rate: ClassVar[float] = 1e-4

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Rotated(layer, self.block_size)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        size, inputs = self.block_size, shape[0]
        if inputs % size or size < 2:
            divisors = [n for n in range(2, inputs + 1) if inputs % n == 0]
            near = min(divisors, key=lambda n: (abs(n - size), n))
            raise UserError(
                f"config.{self.field}.block_size: {size} does not divide the {inputs} inputs of {path}, or leaves nothing to "
                f"rotate; the nearest size that does is {near}"
            )

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """R @ kernel."""
        kernel = float32(leaves["kernel"])
        blocks = rotations(float32(leaves[SKEW]), self.block_size)
        rows = kernel.reshape(*kernel.shape[:-2], -1, self.block_size, kernel.shape[-1])
        return {"kernel": jnp.matmul(blocks, rows, precision="highest").reshape(kernel.shape)}
