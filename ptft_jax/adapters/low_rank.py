"""What methods share whose update of a kernel is a scaled product of two thin matrices."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ptft_jax.adapters.base import LayerMethod, float32
from ptft_jax.errors import UserError


class LowRankMethod(LayerMethod):
    """A method of linear layers that makes a kernel kernel + scale * left @ right.

    Attributes:
      scale: of the update.
    """

    scale: float

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(left [..., in, n], right [..., n, out]) of an adapted layer with `leaves` as for `fold`."""
        raise NotImplementedError

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """kernel + scale * left @ right, or the same of a table."""
        name = "embedding" if "embedding" in leaves else "kernel"
        return {name: updated(leaves[name], *self.factors(leaves), self.scale)}


def updated(kernel: jax.Array, left: jax.Array, right: jax.Array, scale: float) -> jax.Array:
    """kernel + scale * left @ right, float32 [..., in, out]."""
    return float32(kernel) + scale * jnp.matmul(float32(left), float32(right), precision="highest")


def blockwise(x: jax.Array, blocks: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """x [..., K in] @ the matrix of `blocks` [K, in, out] on its diagonal -> [..., K out], in `dtype` (None: theirs)."""
    parts = x.reshape(-1, *blocks.shape[:-1])
    y = jnp.einsum("rki,kio->rko", parts, blocks, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], blocks.shape[0] * blocks.shape[2])


def block_diagonal(blocks: jax.Array) -> jax.Array:
    """[..., K, in, out] -> [..., K in, K out], zeros outside the blocks."""
    *lead, count, size_in, size_out = blocks.shape
    spread = blocks[..., :, :, None, :] * jnp.eye(count, dtype=blocks.dtype)[:, None, :, None]
    return spread.reshape(*lead, count * size_in, count * size_out)


def whole_blocks(field: str, name: str, count: int, size: int, what: str) -> None:
    """Raises UserError, naming the setting `name` of the section `field` and the nearest that does, where a number of blocks
    does not divide `size`, which `what` says in words."""
    if size % count:
        near = min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - count), n))
        raise UserError(
            f"config.{field}.{name}: {count} does not divide {what}; the nearest number that does is {near}"
        )
