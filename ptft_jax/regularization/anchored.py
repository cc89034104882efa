"""What parameters have to do with those they started from: squared distances, and mixing."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Flat = Mapping[str, Any]


def distance(flat: Flat, anchor: Flat, importance: Flat | None = None) -> jax.Array:
    """Half the sum of importance * (parameter - anchor)^2, float32; an importance of 1 where none is given."""
    total = jnp.zeros((), jnp.float32)
    for path, array in flat.items():
        square = jnp.square(array.astype(jnp.float32) - anchor[path].astype(jnp.float32))
        total += jnp.sum(square if importance is None else importance[path] * square) / 2
    return total


def pulled(gradients: Flat, weight: float, flat: Flat, anchor: Flat, importance: Flat | None = None) -> dict[str, Any]:
    """Gradients of a loss, by path, with that of weight * `distance` added."""

    def pull(path):
        away = flat[path].astype(jnp.float32) - anchor[path].astype(jnp.float32)
        return weight * (away if importance is None else importance[path] * away)

    return {path: (g + pull(path)).astype(g.dtype) for path, g in gradients.items()}


@dataclasses.dataclass(frozen=True)
class Mixout:
    """Parameters, each replaced by the one it started from with probability `rate`, and corrected so that their mean stays
    (Lee et al. 2020, "Mixout").

    Attributes:
      paths: of the stored leaves that it is done to.
    """

    rate: float
    paths: frozenset[str]

    def __call__(self, flat: Flat, anchor: Flat, key: jax.Array) -> dict[str, Any]:
        """The leaves by path, mixed. Each leaf draws from its own key, a function of `key` and its path."""
        return {p: self._mix(p, a, anchor[p], key) if p in self.paths else a for p, a in flat.items()}

    def _mix(self, path: str, array: jax.Array, anchor: jax.Array, key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, zlib.crc32(path.encode()) & 0x7FFFFFFF)
        replaced = jax.random.bernoulli(own, self.rate, array.shape)
        kept = (array.astype(jnp.float32) - self.rate * anchor.astype(jnp.float32)) / (1 - self.rate)
        return jnp.where(replaced, anchor, kept.astype(array.dtype))
