"""Multi-head attention with grouped keys, rotary positions, masks over segments and windows, and a key/value cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model import rotary
from ptft_jax.model.layers import Linear, Norm, PerRow, SublayerAdapter, soft_cap
from ptft_jax.model.spec import ModelSpec

Cache = tuple[jax.Array, jax.Array]  # one layer's keys and values, each [B * K, S, H]


class Mask(NamedTuple):
    """Which keys a query may see. `allowed` [1 or B, T, S] bool; `causal_only` says that it is the plain triangle,
    for kernels that need no mask then."""

    allowed: jax.Array
    causal_only: bool


class View(NamedTuple):
    """What a layer attends to: its mask, and how its positions rotate queries and keys (None = not at all).

    The mask's first columns are of the keys that a `prefix` places before the row's, where there are any. `prefix` is
    the layer's keys and values, each [n, K * H], where what makes them is shared by all layers (see `Trunk.prefix`).
    """

    mask: Mask
    rotation: rotary.Table | None
    prefix: tuple[jax.Array, jax.Array] | None = None


def causal_mask(
    length: int,
    segments_BT: jax.Array | None = None,
    *,
    prefix_BT: jax.Array | None = None,
    causal: bool = True,
    shared: int = 0,
) -> Mask:
    """A query sees itself and what came before it (everything where not `causal`), within its own segment when
    `segments_BT` (int; 0 = padding). Positions where `prefix_BT` (bool) see each other in both directions. The first
    `shared` positions are part of every segment."""
    order = jnp.arange(length)
    allowed = (order[:, None] >= order[None, :])[None] if causal else jnp.ones((1, length, length), bool)
    if prefix_BT is not None:
        allowed = allowed | (prefix_BT[:, :, None] & prefix_BT[:, None, :])
    if segments_BT is not None:
        same = segments_BT[:, :, None] == segments_BT[:, None, :]
        allowed = allowed & (same | (order < shared))
    return Mask(allowed, causal and prefix_BT is None and segments_BT is None)


def windowed(mask: Mask, window: int, first: int | jax.Array = 0) -> Mask:
    """The mask without keys `window` or more positions before the query (Child et al. 2019; Jiang et al. 2023), nor as
    far after it, where a prefix is seen in both directions.

    `first`, of all rows or [B], is the key slot of the first query, where queries are decoded against a cache.
    """
    queries, keys = mask.allowed.shape[-2:]
    distance = (jnp.asarray(first)[..., None] + jnp.arange(queries))[..., None] - jnp.arange(keys)
    return Mask(mask.allowed & (jnp.abs(distance) < window), False)


def prefixed(mask: Mask, count: int, positions_BT: jax.Array, window: int = 0) -> Mask:
    """The mask with `count` keys before all others, at positions 0 to count - 1. Every query sees them, whatever its
    segment; with a window, those less than `window` positions before it."""
    if window:
        seen = positions_BT[:, :, None] - jnp.arange(count) < window
    else:
        seen = jnp.ones((1, mask.allowed.shape[1], count), bool)
    rows = max(seen.shape[0], mask.allowed.shape[0])
    parts = [jnp.broadcast_to(part, (rows, *part.shape[1:])) for part in (seen, mask.allowed)]
    return Mask(jnp.concatenate(parts, axis=2), False)


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, implementation: str, scale: float, cap: float
) -> jax.Array:
    """Scaled dot-product attention; the softmax is taken in float32. Returns [B, T, N, H]."""
    if implementation == "cudnn":
        allowed = None if mask.causal_only else mask.allowed[:, None]
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, mask=allowed, scale=scale, is_causal=mask.causal_only, implementation="cudnn"
        )
    b, t, n, h = q_BTNH.shape
    kv = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(b, t, kv, n // kv, h)
    scores = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH * scale, k_BSKH, preferred_element_type=jnp.float32)
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    scores = jnp.where(mask.allowed[:, None, None], soft_cap(scores, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v_BSKH).reshape(b, t, n, h)


def attend_cached(q_BTNH: jax.Array, kept: Cache, allowed_BTS: jax.Array, scale: float, cap: float) -> jax.Array:
    """As `attend`, of keys and values as a cache has them, which both products read as they lie: [B, T, N, H]."""
    (b, t, n, h), (keys, values) = q_BTNH.shape, kept
    kv = keys.shape[0] // b
    # Heads of a group, and their positions, are rows of one product.
    q = jnp.moveaxis((q_BTNH * scale).reshape(b, t, kv, n // kv, h), 1, 3).reshape(b * kv, -1, h)
    scores = jax.lax.dot_general(q, keys, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    scores = soft_cap(scores, cap).reshape(b, kv, n // kv, t, -1)
    scores = jnp.where(allowed_BTS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype).reshape(b * kv, (n // kv) * t, -1)
    y = jax.lax.dot_general(weights, values, (((2,), (1,)), ((0,), (0,))))
    return jnp.moveaxis(y.reshape(b, kv, n // kv, t, h), 3, 1).reshape(b, t, n, h)


def _written(kept: jax.Array, new_BTKH: jax.Array, start: int | jax.Array) -> jax.Array:
    """What is kept of keys or values, with T new slots of each row from its `start` on.

    One row's are written to the array as it is: behind another view of it a compiler for CPUs makes two copies a token.
    """
    b, start = new_BTKH.shape[0], jnp.asarray(start)
    new = jnp.swapaxes(new_BTKH, 1, 2).astype(kept.dtype)
    if b == 1 or not start.ndim:
        return jax.lax.dynamic_update_slice_in_dim(kept, new.reshape(-1, *new.shape[2:]), start.reshape(()), 1)

    def row(kept_KSH: jax.Array, new_KTH: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(kept_KSH, new_KTH, at, 1)

    return jax.vmap(row)(kept.reshape(b, -1, *kept.shape[1:]), new, start).reshape(kept.shape)


class Attention(nnx.Module):
    """Projects to queries, keys and values, attends, and projects back to the residual stream.

    Fine-tuning methods (`ptft_jax.adapters`) have two places here, empty (None) unless they fill them. `prefix`
    attends in place of `attend`, to more than the row: a module called with (attention, q [B, T, N, H], k and v
    [B, S, K, H], view) that returns [B, T, N, H]. `adapter` changes what the block makes of the output, see `Block`.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        inner, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        residual_std = spec.init_std / (2 * spec.layers) ** 0.5
        bias = "qkv" in spec.biases
        self.query = Linear(spec.width, inner, spec, rngs, bias=bias, std=spec.init_std)
        self.key = Linear(spec.width, kv, spec, rngs, bias=bias, std=spec.init_std)
        self.value = Linear(spec.width, kv, spec, rngs, bias=bias, std=spec.init_std)
        self.out = Linear(inner, spec.width, spec, rngs, bias="out" in spec.biases, std=residual_std)
        # Over each head (Qwen 3, Gemma 3), or over all heads at once (OLMo 2).
        sizes = {"head": (spec.head_dim, spec.head_dim), "all": (inner, kv)}.get(spec.query_key_norm)
        self.query_norm = Norm(spec, sizes[0]) if sizes else None
        self.key_norm = Norm(spec, sizes[1]) if sizes else None
        self.prefix: Callable[[Attention, jax.Array, jax.Array, jax.Array, View], jax.Array] | None = None
        self.adapter: SublayerAdapter | None = None

    def __call__(
        self,
        x_BTD: jax.Array,
        view: View,
        cache: Cache | None = None,
        start: int | jax.Array | None = None,
        per_row: PerRow | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Returns ([B, T, D], cache). The new keys and values are written to the cache from slot `start` on (of all rows, or
        [B]), and all S slots are attended to under the mask."""
        q = self._heads(self.query(x_BTD, per_row), self.query_norm)
        k, v = self.keys_and_values(x_BTD, per_row)
        if view.rotation is not None:
            q, k = rotary.rotate(q, view.rotation), rotary.rotate(k, view.rotation)
        if cache is not None:
            assert start is not None, "what is written to a cache has a slot"
            cache = (_written(cache[0], k, start), _written(cache[1], v, start))
            if self.prefix is None and self.spec.attention == "xla":
                y = attend_cached(q, cache, view.mask.allowed, self.scale, self.spec.attention_cap)
                return self.out(y.reshape(*x_BTD.shape[:2], -1), per_row), cache
            rows = x_BTD.shape[0]
            k, v = (jnp.swapaxes(kept.reshape(rows, -1, *kept.shape[1:]), 1, 2) for kept in cache)
        y = self.attend(q, k, v, view.mask) if self.prefix is None else self.prefix(self, q, k, v, view)
        return self.out(y.reshape(*x_BTD.shape[:2], -1), per_row), cache

    @property
    def scale(self) -> float:
        """The factor on scores."""
        return self.spec.attention_scale or self.spec.head_dim**-0.5

    def keys_and_values(self, x_BTD: jax.Array, per_row: PerRow | None = None) -> tuple[jax.Array, jax.Array]:
        """Each [B, T, K, H], before rotation."""
        return self._heads(self.key(x_BTD, per_row), self.key_norm), self._heads(self.value(x_BTD, per_row), None)

    def attend(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, implementation: str = ""
    ) -> jax.Array:
        """With this model's scale, cap and, by default, implementation: [B, T, N, H]."""
        spec = self.spec
        return attend(q_BTNH, k_BSKH, v_BSKH, mask, implementation or spec.attention, self.scale, spec.attention_cap)

    def _heads(self, x_BTC: jax.Array, norm: Norm | None) -> jax.Array:
        """Apart by heads [B, T, heads, H], normed as the model has it."""
        if norm is not None and self.spec.query_key_norm == "all":
            x_BTC = norm(x_BTC)
        x = x_BTC.reshape(*x_BTC.shape[:2], -1, self.spec.head_dim)
        return norm(x) if norm is not None and self.spec.query_key_norm == "head" else x
