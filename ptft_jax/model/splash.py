"""Attention on TPUs by a kernel that JAX ships ("splash attention", `jax.experimental.pallas.ops.tpu.splash_attention`): blocks of scores, and
only those in which a query may see a key, are in the core's memory and never in the device's (Dao et al. 2022, "FlashAttention")."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.model.dot_product import Seen, by_heads, of_heads

Segments = tuple[jax.Array, jax.Array]  # int32 of queries [T] and of keys [S], or of rows of them

LANES = 128  # of a TPU's registers: blocks are multiples of it
BLOCK = 512  # queries and keys of a block at most, and of a row at least: the scores of shorter ones are few


def takes(seen: Seen, queries: int, keys: int) -> bool:
    """Whether the kernel knows the rules, and rows are long enough to be worth it. It knows what stands in `Seen` as numbers, and segments."""
    rest = (seen.prefix, seen.first, seen.reach, seen.listed)
    if any(rule is not None for rule in rest) or seen.before or (seen.shared and seen.segments is not None):
        return False
    return min(queries, keys) >= BLOCK and (queries == keys or not (seen.causal or seen.window))


def splash(
    scale: float,
    cap: float,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    seen: Seen,
    *,
    interpret: bool = False,
) -> jax.Array:
    """As `ptft_jax.model.dot_product.attention`, of rules that `takes` has found to be known. Returns [B, T, N, H].

    Rows are filled up to whole blocks; what fills them is a segment of its own.

    Args:
      interpret: the kernel is carried out by XLA's operations, on any platform, slowly: for tests.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    (b, t, n, _), (s, kv) = q_BTNH.shape, k_BSKH.shape[1:3]
    block_q, block_k = _block(t), _block(s)
    q, k, v = _filled(q_BTNH * scale, block_q), _filled(k_BSKH, block_k), _filled(v_BSKH, block_k)
    size = (q.shape[1], k.shape[1])
    sizes = kernels.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        block_q_dq=block_q,
        block_kv_dq=block_k,
    )
    kernel = kernels.make_splash_mqa(
        kernels.MultiHeadMask([_mask(seen, size)] * (n // kv)),  # of one group of heads
        block_sizes=sizes,
        attn_logits_soft_cap=cap or None,
        head_shards=1,  # each device calls it of its own heads and rows
        q_seq_shards=1,
        interpret=interpret,
    )

    def row(q_KGTH: jax.Array, k_KSH: jax.Array, v_KSH: jax.Array, segments: Segments | None) -> jax.Array:
        told = segments and kernels.SegmentIds(*segments)
        return jax.vmap(lambda q, k, v: kernel(q, k, v, told))(q_KGTH, k_KSH, v_KSH)

    with jax.named_scope(_share(seen, *size, block_q, block_k)):
        arrays = (by_heads(q, kv), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3))
        out_BKGTH = jax.vmap(row)(*arrays, _segments(seen, b, (t, s), size))
    return of_heads(out_BKGTH[:, :, :, :t]).astype(v_BSKH.dtype)


def _block(length: int) -> int:
    return min(BLOCK, -(-length // LANES) * LANES)


def _reach(seen: Seen) -> tuple[int | None, int | None]:
    """How many slots before and after its own a query sees; None = all."""
    before = seen.window - 1 if seen.window else None
    return before, 0 if seen.causal else before


def _mask(seen: Seen, size: tuple[int, int]) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    before, after = _reach(seen)
    return kernels.FullMask(size) if before is None and after is None else _listed()(size, (before, after), 0)


@functools.cache  # JAX keeps what it has listed of a mask by its class, too
def _listed() -> Any:
    """The class of masks of which a query sees some slots before and after its own."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    class Mask(kernels.LocalMask):
        """The kernel asks for each block in turn, of which there are 65,536 in a row of 131,072: most of them are of one kind all over."""

        def __getitem__(self, part: Any) -> np.ndarray:
            (first, last), (nearest, farthest) = ((one.start, one.stop - 1) for one in part)
            least, most = first - farthest, last - nearest  # slots that a key is before a query
            before, after = self.window_size
            low, high = -math.inf if after is None else -after, math.inf if before is None else before
            if most < low or least > high or (low <= least and most <= high):
                return np.broadcast_to(low <= least and most <= high, (last + 1 - first, farthest + 1 - nearest))
            return super().__getitem__(part)

    return Mask


def _share(seen: Seen, queries: int, keys: int, block_q: int, block_k: int) -> str:
    """How many of the blocks that the kernel counts are carried out, for who reads the program (`ptft_jax.planning.flops`)."""
    first, last = (np.arange(0, n, size)[:, None] + (0, size - 1) for n, size in ((queries, block_q), (keys, block_k)))
    before, after = (max(queries, keys) if reach is None else reach for reach in _reach(seen))
    met = (first[:, 1:] - last[:, 0] >= -after) & (first[:, :1] - last[:, 1] <= before)
    counted = met.shape[0] * int(met.sum(axis=1).max())  # a row of blocks is as long as the longest
    return f"{int(met.sum())} of {counted} blocks"


def _filled(x: jax.Array, block: int, value: int = 0) -> jax.Array:
    """[B, T, ...] with so many further positions that these are whole blocks."""
    places = ((0, 0), (0, -x.shape[1] % block), *((0, 0) for _ in x.shape[2:]))
    return jnp.pad(x, places, constant_values=value)


def _segments(seen: Seen, rows: int, given: tuple[int, int], size: tuple[int, int]) -> Segments | None:
    """int32 of queries [B, T] and of keys [B, S], filled up with -1; None where all are of one, and none is needed for what fills up."""
    if seen.segments is not None:
        first, second = (x.astype(jnp.int32) for x in seen.segments)
    elif given == size or seen.causal:  # what fills up is after all queries
        return None
    else:
        first, second = (jnp.zeros((rows, length), jnp.int32) for length in given)
    return _filled(first, _block(given[0]), -1), _filled(second, _block(given[1]), -1)
