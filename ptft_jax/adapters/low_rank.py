"""What methods share whose update of a kernel is a scaled product of two thin matrices."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ptft_jax.adapters.base import LayerMethod, float32


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
