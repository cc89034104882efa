"""Moments of an optimizer in 8 bits each (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ptft_jax.params.rules import flatten, unflatten

BLOCK = 256  # numbers that share a scale, at most
SMALLEST = 4096  # numbers of one layer's parameter from which on its moments are worth it, as in bitsandbytes
_WORTH = 64  # numbers of a block from which on: its scale takes 4 bytes
_MOMENTS = {"mu": True, "nu": False}  # of Optax's states, and whether they have a sign


class Moments(NamedTuple):
    """Those of a trainable tree, a nested dict each.

    Attributes:
      codes: uint8, in the shape of the parameter: its place in `codebook`.
      scales: float32, the largest magnitude of each block; as many axes as the parameter.
      plain: what is too small, as it is.
    """

    codes: dict[str, Any]
    scales: dict[str, Any]
    plain: dict[str, Any]


def codebook(signed: bool) -> np.ndarray:
    """float32 [256], rising to 1: dynamic tree quantization (Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning",
    section 2.1). In each of seven decades below 1 twice as many numbers as in the one below, at the middles of even parts; 0 and 1."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1)
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        found += [*middles, *(-middles if signed else ())]
    return np.sort(found).astype(np.float32)


def block(shape: Sequence[int], units: int) -> tuple[int, int] | None:
    """(rows, columns) of the last two axes whose numbers share a scale, divisors of these with a product of at most BLOCK; None = such a
    parameter is kept as it is.

    Args:
      units: leading axes that run over parameters of their own (`ptft_jax.optim.units.stacked_axes`).
    """
    own = shape[units:]
    if not own or math.prod(own) < SMALLEST:
        return None
    columns = _divisor(own[-1], BLOCK)
    rows = _divisor(own[-2], BLOCK // columns) if len(own) > 1 else 1
    return (rows, columns) if rows * columns >= _WORTH else None


def coded(array: jax.Array, size: tuple[int, int], signed: bool) -> tuple[jax.Array, jax.Array]:
    """(codes, scales) of an array of at least one axis: the nearest of `codebook`, times the largest magnitude of the block. What has no
    sign and is not 0 does not become 0: it is divided by, and a step would be as large as what it is divided by is small."""
    book = codebook(signed)
    blocks = _cut(array, size)
    scales = jnp.max(jnp.abs(blocks), axis=(-3, -1), keepdims=True)
    shares = blocks / jnp.where(scales > 0, scales, 1.0)
    codes = jnp.searchsorted(jnp.asarray((book[:-1] + book[1:]) / 2), shares).astype(jnp.uint8)
    if not signed:
        codes = jnp.maximum(codes, (shares > 0).astype(jnp.uint8))
    rows, columns = scales.shape[-4], scales.shape[-2]
    return codes.reshape(array.shape), scales.reshape(*array.shape[:-2], *((rows,) if array.ndim > 1 else ()), columns)


def decoded(codes: jax.Array, scales: jax.Array, size: tuple[int, int], signed: bool) -> jax.Array:
    """float32, in the shape of `codes`."""
    blocks = jnp.asarray(codebook(signed))[_cut(codes, size)]
    shape = (*blocks.shape[:-3], 1, blocks.shape[-2], 1)
    return (blocks * scales.reshape(shape)).reshape(codes.shape)


def kept(direction: optax.GradientTransformation, units: Callable[[str], int]) -> optax.GradientTransformation:
    """`direction`, which computes in float32, with its moments `mu` and `nu` in 8 bits between its steps.

    Args:
      units: as `units` of `block`, of the leaf at a path.
    """

    def changed(state: Any, one: Callable[[Any, bool], Any]) -> Any:
        """The state with other moments; they keep their names, and so their paths end in those of parameters."""
        found = {name: one(getattr(state, name), signed) for name, signed in _MOMENTS.items() if hasattr(state, name)}
        return state._replace(**found)

    def packed(tree: dict[str, Any], signed: bool) -> Moments:
        codes, scales, plain = {}, {}, {}
        for path, array in flatten(tree).items():
            size = block(array.shape, units(path))
            if size is None:
                plain[path] = array
            else:
                codes[path], scales[path] = coded(array, size, signed)
        return Moments(unflatten(codes), unflatten(scales), unflatten(plain))

    def unpacked(moments: Moments, signed: bool) -> dict[str, Any]:
        scales, found = flatten(moments.scales), flatten(moments.plain)
        for path, codes in flatten(moments.codes).items():
            size = block(codes.shape, units(path))
            assert size is not None
            found[path] = decoded(codes, scales[path], size, signed)
        return unflatten(found)

    def init(params: Any) -> Any:
        return changed(direction.init(params), packed)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, new = direction.update(updates, changed(state, unpacked), params)
        return updates, changed(new, packed)

    return optax.GradientTransformation(init, update)


def _cut(array: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[..., a, n] to [..., a / rows, rows, n / columns, columns]; of one axis, as if there were one row."""
    rows, columns = size
    shape = array.shape if array.ndim > 1 else (1, *array.shape)
    return array.reshape(*shape[:-2], shape[-2] // rows, rows, shape[-1] // columns, columns)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most so large."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)
