"""Kernels kept in four or eight bits a number, and multiplied with in the precision of the model.

NF4, its blocks and the quantization of their scales are those of Dettmers et al. 2023, "QLoRA" (section 3), laid out as in
bitsandbytes where its blocks and these coincide: where the inputs of a kernel divide into whole blocks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ptft_jax.model.turned import Turned

P = ParamSpec("P")
T = TypeVar("T")

# Quantiles of the normal distribution, scaled to [-1, 1], with an exact zero (appendix E of the paper).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FORMATS = ("nf4", "int8")
SCALES_BLOCK = 256

# What a kernel becomes: the numbers themselves, and what they are scaled by.
CODES, SCALES = "codes", ("scales", "scales_absmax", "scales_offset")


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a kernel is kept.

    Attributes:
      format: "nf4" (the nearest of 16 normal quantiles) or "int8" (whole numbers to 127), times the largest magnitude of
        the block.
      block: how many inputs of one output share a scale; those of a shorter rest share one, too.
      double: keep the scales in eight bits, in blocks of 256.
    """

    format: str
    block: int = 64
    double: bool = True


def dynamic_map() -> np.ndarray:
    """[256] float32, ascending: eight bits of a sign, an exponent of ten in unary and a linear fraction (Dettmers et al.
    2021, "8-bit Optimizers via Block-wise Quantization", section 2.2)."""
    magnitudes = []
    for bits in range(7):
        # From both ends, the step rounded to float32, as torch.linspace: bitsandbytes has these very numbers.
        i, step = np.arange(2**bits + 1), np.float64(np.float32(0.9) / np.float32(2**bits))
        edges = np.where(2 * i <= 2**bits, np.float32(0.1) + step * i, 1 - step * i[::-1]).astype(np.float32)
        magnitudes.append(np.float32(10.0 ** (bits - 6)) * _middles(edges))
    positive = np.concatenate(magnitudes)
    return np.sort(np.concatenate([-positive, positive, [0, 1]]).astype(np.float32))


def quantize(kernel: jax.Array, how: Quantization) -> dict[str, jax.Array]:
    """The leaves that stand for a kernel [..., in, out]; `in` is even for "nf4".

    Returns:
      codes: "nf4": uint8 [..., in / 2, out], two inputs in a byte, the first in the upper half; "int8": int8 [..., in, out].
      scales: [..., out, blocks], the largest magnitude of every block, float32; with `how.double` uint8 codes of it by
        `dynamic_map`, and:
      scales_absmax: float32 [..., ceil(out * blocks / 256)], the largest of 256 scales' distances from their mean.
      scales_offset: float32 [...], that mean.

    Every finite kernel gives finite leaves. Magnitudes below 2^-126 (subnormal numbers) count as 0, as they do in compiled
    programs. Kernels that are not finite have no such leaves: who reads them refuses them (`ptft_jax.params.finite`).
    """
    if kernel.ndim > 2:
        return jax.vmap(functools.partial(quantize, how=how))(kernel)
    w = kernel.astype(jnp.float32)
    size, size_out = w.shape
    blocks = -(-size // how.block)
    padded = jnp.pad(jnp.abs(w), ((0, blocks * how.block - size), (0, 0)))
    scales = jnp.max(padded.reshape(blocks, how.block, size_out), axis=1).T
    each = jnp.maximum(_spread(scales, size, how), jnp.finfo(jnp.float32).tiny)
    if how.format == "int8":
        codes = jnp.round(_amid(lambda w, each: w * 127 / each, w, each)).astype(jnp.int8)
    else:
        unit = _amid(jnp.divide, w, each)
        # Fifteen comparisons with the middles between neighbors; a tie goes to the lower.
        four_bits = sum((unit > middle).astype(jnp.uint8) for middle in _middles(np.asarray(NF4, np.float32)))
        codes = four_bits[0::2] << 4 | four_bits[1::2]
    return {CODES: codes, **(_quantize_scales(scales) if how.double else {"scales": scales})}


def dequantize(leaves: Mapping[str, jax.Array], how: Quantization, dtype: Any) -> jax.Array:
    """The kernel [..., in, out] that `leaves` of `quantize` stand for, in `dtype`."""
    codes = leaves[CODES]
    if codes.ndim > 2:
        return jax.vmap(lambda part: dequantize(part, how, dtype))(dict(leaves))
    if how.format == "int8":
        unit = codes.astype(jnp.float32) / 127
    else:
        pairs = jnp.stack([codes >> 4, codes & 15], axis=1)
        unit = jnp.asarray(NF4, jnp.float32)[pairs.reshape(-1, codes.shape[1])]
    scales = _dequantize_scales(leaves, dtype) if how.double else leaves["scales"]
    return (unit * _spread(scales, unit.shape[0], how)).astype(dtype)


def _factor(size: jax.Array) -> jax.Array:
    """The power of two that brings sizes near the ends of float32's range to where sums and inverses are numbers; else 1."""
    return jnp.where(size > 2.0**64, 2.0**-64, jnp.where(size < 2.0**-64, 2.0**64, 1.0))


def _amid(ratio: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, size: jax.Array) -> jax.Array:
    """ratio(x, size), a quotient; near the ends of float32's range of both times a power of two, which rounds nothing."""
    factor = _factor(size)
    # Two expressions: the first compiles to what it was when there was no other.
    return jnp.where(factor == 1, ratio(x, size), ratio(x * factor, size * factor))


def _spread(scales: jax.Array, size: int, how: Quantization) -> jax.Array:
    """Every number's scale, [in, out], from [out, blocks]."""
    return jnp.repeat(scales.T, how.block, axis=0)[:size]


def _middles(values: np.ndarray) -> np.ndarray:
    return (values[:-1] + values[1:]) / np.float32(2)


def _quantize_scales(scales: jax.Array) -> dict[str, jax.Array]:
    flat = scales.reshape(-1)
    factor = _factor(jnp.max(flat))
    offset = _mean(flat * factor) / factor
    rows = jnp.pad(flat - offset, (0, -flat.size % SCALES_BLOCK)).reshape(-1, SCALES_BLOCK)
    absmax = jnp.max(jnp.abs(rows), axis=1)
    unit = _amid(jnp.divide, rows, jnp.maximum(absmax, jnp.finfo(jnp.float32).tiny)[:, None])
    codes = jnp.searchsorted(jnp.asarray(_middles(dynamic_map())), unit).astype(jnp.uint8)
    return {
        "scales": codes.reshape(-1)[: flat.size].reshape(scales.shape),
        "scales_absmax": absmax,
        "scales_offset": offset,
    }


def _dequantize_scales(leaves: Mapping[str, jax.Array], dtype: Any) -> jax.Array:
    codes = leaves["scales"]
    absmax = jnp.repeat(leaves["scales_absmax"], SCALES_BLOCK)[: codes.size].reshape(codes.shape)
    scales = jnp.asarray(dynamic_map())[codes] * absmax + leaves["scales_offset"]
    # Rounded upwards, the largest could leave the range of what they scale.
    return jnp.minimum(scales, float(jnp.finfo(dtype).max))


def _mean(x: jax.Array) -> jax.Array:
    """The mean of x [n], added up in an order that no layout over devices changes: codes must not depend on it."""
    count = x.size
    while x.size > 1:
        x = jnp.pad(x, (0, x.size % 2))
        x = x[: x.size // 2] + x[x.size // 2 :]
    return x[0] / count


class QuantizedKernel(nnx.Module):
    """Stands in the place of a kernel [..., in, out] and reads as one: `[...]`, `shape`, `dtype`.

    Its leaves are those of `quantize`, such as `blocks/mlp/up/kernel/codes`.
    """

    def __init__(self, kernel: jax.Array, how: Quantization):
        self.how, self.dtype, self.shape = how, jnp.dtype(kernel.dtype), tuple(kernel.shape)
        leaves = quantize(kernel, how)
        self.names = tuple(leaves)
        for name, array in leaves.items():
            setattr(self, name, nnx.Param(array))

    def __getitem__(self, index: Any) -> jax.Array:
        return dequantize({name: getattr(self, name)[...] for name in self.names}, self.how, self.dtype)[index]


def known_after(x: jax.Array, params: Any) -> Any:
    """Parameters with the same leaves of quantized kernels, which to the compiler follow from x [...], too.

    Otherwise it makes the kernels of all layers dense before a loop over tokens, and keeps them through it. A barrier does not do:
    compilers for CPUs take it out before they decide on the order of operations, and make them dense at the start of each pass.
    """
    never = x.reshape(-1)[0] > jnp.inf

    def leaf(path: Any, array: jax.Array) -> jax.Array:
        name = "/".join(str(part.key) for part in path)
        return array if plain_path(name) == name else jnp.where(never, jnp.zeros((), array.dtype), array)

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=lambda part: isinstance(part, Turned))


def recomputed(kernel: Any, function: Callable[P, T]) -> Callable[P, T]:
    """The function of a layer with this kernel; where that is quantized, what it makes of it is made again in the backward
    pass. Otherwise a dense copy of every layer's kernel would be kept from the forward pass on."""
    return jax.checkpoint(function) if isinstance(kernel, QuantizedKernel) else function


def plain_path(path: str) -> str:
    """The parameter that a leaf stands for: `blocks/mlp/up/kernel/codes` -> `blocks/mlp/up/kernel`."""
    parent, _, name = path.rpartition("/")
    return parent if parent.endswith("/kernel") and name in (CODES, *SCALES) else path


def numbers(path: str, shape: tuple[int, ...], dtype: Any) -> int:
    """How many of the model's numbers a leaf holds: two in every byte of "nf4", none in scales."""
    name = path.rpartition("/")[2] if plain_path(path) != path else ""
    if name in SCALES:
        return 0
    return int(np.prod(shape, dtype=np.int64)) * (2 if name == CODES and np.dtype(dtype) == np.uint8 else 1)
