"""Checksums of arrays that do not depend on how they are spread over devices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.params.rules import flatten

_MIX = (0x9E3779B1, 0x85EBCA77)


def _bits(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(
        x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    )
    return bits.astype(jnp.uint32)


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """[2] uint32: the sum, modulo 2^32, of every element's bits times an odd number made of its position.

    An odd factor is invertible modulo 2^32, so a change of one element always changes the sum; integer sums do not
    depend on order, so neither does the result on the sharding.
    """
    bits = _bits(x)
    position = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    sums = []
    for mix in _MIX:
        factor = position * jnp.uint32(mix)
        factor = (factor ^ (factor >> 15)) * jnp.uint32(0x2C1B3C6D)
        sums.append(jnp.sum(bits * (factor | 1), dtype=jnp.uint32))
    return jnp.stack(sums)


def _near(leaf: Any) -> Any:
    """A leaf in the memory that its devices compute with, where it lies in their host's."""
    kind = getattr(leaf.sharding, "memory_kind", None) if isinstance(leaf, jax.Array) else None
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("device")) if kind == "pinned_host" else leaf


def checksums(tree: Mapping[str, Any]) -> dict[str, str]:
    """{path: 16 hex digits} for every leaf of a nested dict of arrays."""
    flat = flatten(tree)
    # One after the other: a CPU holds the terms of a sum in memory, and so those of a single leaf.
    rows = [jax.device_get(_checksum(_near(leaf))) for leaf in flat.values()]
    return {path: f"{int(a):08x}{int(b):08x}" for path, (a, b) in zip(flat, rows)}


def fingerprint(sums: Mapping[str, str]) -> str:
    """One name for a whole tree: 16 hex digits of the SHA-256 of its sorted checksums."""
    return hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()[:16]
