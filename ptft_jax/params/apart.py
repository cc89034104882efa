"""Leaves that hold several adapters at once, of which each is trained as if it were alone (`ptft_jax.adapters.multi_adapter`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Apart:
    """Which they are.

    Attributes:
      count: N, how many adapters there are.
      paths: of the stored leaves [layers, N, ...] that hold all of them.
    """

    count: int
    paths: frozenset[str]

    def weights(self, batch: Mapping[str, jax.Array], weights: jax.Array) -> jax.Array:
        """The weight [N], float32, of the rows of each adapter in a batch whose targets weigh `weights`, float32 [B, ...]."""
        rows_B = weights.reshape(len(batch["adapters"]), -1).sum(axis=1)
        own_BN = batch["adapters"][:, None] == jnp.arange(self.count)
        return jnp.sum(jnp.where(own_BN, rows_B[:, None], 0.0), axis=0)

    def means(self, gradients: Mapping[str, jax.Array], weights_N: jax.Array, weight: jax.Array) -> dict[str, Any]:
        """Gradients of a mean loss from those of a sum, by path: of each adapter over its own rows, where there are any; of what
        is shared over all (`weight`)."""
        own = 1 / jnp.where(weights_N > 0, weights_N, 1.0)
        return {p: self.scaled(g, own) if p in self.paths else g / weight for p, g in gradients.items()}

    def scaled(self, leaf: jax.Array, by_N: jax.Array) -> jax.Array:
        """A leaf [layers, N, ...] times a number for each adapter."""
        return leaf * by_N.reshape((1, -1) + (1,) * (leaf.ndim - 2))

    def norms(self, flat: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(the norm of each adapter's leaves [N], that of all others), of a tree by path."""
        each, rest = jnp.zeros(self.count), jnp.zeros(())
        for path, leaf in flat.items():
            if path in self.paths:
                each += jnp.sum(jnp.square(leaf), axis=(0, *range(2, leaf.ndim)))
            else:
                rest += jnp.sum(jnp.square(leaf))
        return jnp.sqrt(each), jnp.sqrt(rest)
