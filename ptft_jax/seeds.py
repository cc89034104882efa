"""Seeds: which numbers are some, and the random key of each."""

from __future__ import annotations

from typing import Any

MOST = 2**63 - 1


def key(seed: int, **options: Any) -> Any:
    """The JAX key of a seed from 0 to `MOST`. JAX itself looks at the lower 32 bits alone, so that seeds that differ above
    them would draw the same; `options` are those of `jax.random.key`."""
    import jax

    made = jax.random.key(seed % 2**32, **options)
    return jax.random.fold_in(made, seed >> 32) if seed >> 32 else made
