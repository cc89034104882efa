"""Checksums of arrays that do not depend on how they are spread over devices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.params.rules import flatten

_MIX, _LAST = (0x9E3779B1, 0x85EBCA77), 0x2C1B3C6D
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}  # by the bytes of an element
# Elements up to which a leaf is summed up on the host, as compiling for its shape would take longer; and so many at a time, that
# a core's cache holds what is made of them.
_SMALL, _AT_ONCE = 2**20, 2**15


def _bits(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)


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
        factor = (factor ^ (factor >> 15)) * jnp.uint32(_LAST)
        sums.append(jnp.sum(bits * (factor | 1), dtype=jnp.uint32))
    return jnp.stack(sums)


def _small(leaf: Any) -> bool:
    """Whether a leaf is summed up on the host."""
    return leaf.size <= _SMALL and (not isinstance(leaf, jax.Array) or leaf.is_fully_addressable)


def _checksum_on_host(leaf: Any) -> list[int]:
    """As `_checksum`, by numpy."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)).reshape(-1)
    bits = array.view(_UNSIGNED[array.dtype.itemsize])
    sums = [0] * len(_MIX)
    for at in range(0, bits.size, _AT_ONCE):
        part = bits[at : at + _AT_ONCE].astype(np.uint32)
        position = np.arange(at, at + part.size, dtype=np.uint32)
        for number, mix in enumerate(_MIX):
            factor = position * np.uint32(mix)
            factor ^= factor >> np.uint32(15)
            factor *= np.uint32(_LAST)
            factor |= np.uint32(1)
            sums[number] = (sums[number] + int(np.sum(part * factor, dtype=np.uint32))) % 2**32
    return sums


def _near(leaf: Any) -> Any:
    """A leaf in the memory that its devices compute with, where it lies in their host's."""
    kind = getattr(leaf.sharding, "memory_kind", None) if isinstance(leaf, jax.Array) else None
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("device")) if kind == "pinned_host" else leaf


def checksums(tree: Mapping[str, Any]) -> dict[str, str]:
    """{path: 16 hex digits} for every leaf of a nested dict of arrays."""
    flat = flatten(tree)
    # One after the other: a CPU holds the terms of a sum in memory, and so those of a single leaf.
    rows = [
        _checksum_on_host(leaf) if _small(leaf) else jax.device_get(_checksum(_near(leaf))) for leaf in flat.values()
    ]
    return {path: f"{int(a):08x}{int(b):08x}" for path, (a, b) in zip(flat, rows)}


def fingerprint(sums: Mapping[str, str]) -> str:
    """One name for a whole tree: 16 hex digits of the SHA-256 of its sorted checksums."""
    return hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()[:16]
