"""Multi-head attention with grouped keys, rotary positions, masks over segments, and a key/value cache."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.layers import Linear
from ptft_jax.model.spec import ModelSpec


class Mask(NamedTuple):
    """Which keys a query may see. `allowed` [1 or B, T, S] bool; `causal_only` says that it is the plain triangle,
    for kernels that need no mask then."""

    allowed: jax.Array
    causal_only: bool


def causal_mask(length: int, segments_BT: jax.Array | None = None) -> Mask:
    """A query sees itself and what came before it, within its own segment when `segments_BT` (int; 0 = padding)."""
    order = jnp.arange(length)
    allowed = (order[:, None] >= order[None, :])[None]
    if segments_BT is None:
        return Mask(allowed, True)
    return Mask(allowed & (segments_BT[:, :, None] == segments_BT[:, None, :]), False)


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (Su et al. 2021, eq. 34), halves convention (x1, x2) -> (x1 c - x2 s, x2 c + x1 s)."""
    half = x_BTNH.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x_BTNH.dtype)


def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, implementation: str) -> jax.Array:
    """Scaled dot-product attention; the softmax is taken in float32. Returns [B, T, N, H]."""
    if implementation == "cudnn":
        allowed = None if mask.causal_only else mask.allowed[:, None]
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, mask=allowed, is_causal=mask.causal_only, implementation="cudnn"
        )
    b, t, n, h = q_BTNH.shape
    kv = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(b, t, kv, n // kv, h)
    scores = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH * h**-0.5, k_BSKH, preferred_element_type=jnp.float32)
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    scores = jnp.where(mask.allowed[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v_BSKH).reshape(b, t, n, h)


class Attention(nnx.Module):
    """Projects to queries, keys and values, attends, and projects back to the residual stream."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        inner, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        residual_std = spec.init_std / (2 * spec.layers) ** 0.5
        self.query = Linear(spec.width, inner, spec, rngs, bias=spec.bias, std=spec.init_std)
        self.key = Linear(spec.width, kv, spec, rngs, bias=spec.bias, std=spec.init_std)
        self.value = Linear(spec.width, kv, spec, rngs, bias=spec.bias, std=spec.init_std)
        self.out = Linear(inner, spec.width, spec, rngs, bias=spec.bias, std=residual_std)

    def __call__(self, x_BTD, positions_BT, mask: Mask, cache=None, start=None, keys=None):
        """Returns ([B, T, D], cache). `cache` is (k, v), each [B, S, K, H]: the new keys and values are written at
        slot `start`, and all S slots are attended to under `mask`."""
        spec, (b, t, _) = self.spec, x_BTD.shape
        q = self.query(x_BTD, keys).reshape(b, t, spec.heads, spec.head_dim)
        k = self.key(x_BTD, keys).reshape(b, t, spec.kv_heads, spec.head_dim)
        v = self.value(x_BTD, keys).reshape(b, t, spec.kv_heads, spec.head_dim)
        if spec.positions == "rotary":
            q, k = rotate(q, positions_BT, spec.rope_theta), rotate(k, positions_BT, spec.rope_theta)
        if cache is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, new, start, 1) for old, new in zip(cache, (k, v)))
            cache = (k, v)
        y = attend(q, k, v, mask, spec.attention)
        return self.out(y.reshape(b, t, -1), keys), cache
