"""Attention over devices that have a part of every row each: keys and values go around a ring (Liu et al. 2023, "Ring Attention with
Blockwise Transformers for Near-Infinite Context").

Each device keeps its queries and meets the keys and values of one device after the other, while it hands on those that it has met. The softmax
is that of all keys (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"), so that no device ever has all keys of a row,
nor the scores of more than `CHUNK` keys at a time, and the backward pass takes both again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ptft_jax.model.dot_product import FLOOR, Seen, Span, by_heads, of_heads, product, where
from ptft_jax.model.layers import soft_cap
from ptft_jax.model.layout import CONTEXT

CHUNK = 1024  # keys whose scores there are at a time


class _Met(NamedTuple):
    """What queries have made of the keys that they have met, float32: the largest score [B, K, Q, 1], the sum of exponentials relative to
    it, and that of values under these [B, K, Q, H]; Q counts the queries of all heads of a group."""

    top: jax.Array
    total: jax.Array
    out: jax.Array


class _Kept(NamedTuple):
    """What the backward pass needs: arguments, the result, and the logarithm of what each query's softmax is normalized by [B, K, Q, 1]."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    seen: Seen
    out: jax.Array
    log_z: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def ring(
    parts: int, scale: float, cap: float, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, seen: Seen
) -> jax.Array:
    """As `ptft_jax.model.dot_product.attention`, on one of `parts` devices along the mesh axis CONTEXT, within `jax.shard_map`.

    Args:
      q_BTNH, k_BTKH, v_BTKH: of this device's part of the positions; parts are in order, and of one length.
      seen: rules by which each query sees some key, itself as a rule, without `before`, `shared`, `first` and `listed`. Of `segments` and `prefix` the queries' are of this part [B, T], the keys' of
        whole rows [B, parts * T].
    """
    return _forward(parts, scale, cap, q_BTNH, k_BTKH, v_BTKH, seen)[0]


def _forward(
    parts: int, scale: float, cap: float, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, seen: Seen
) -> tuple[jax.Array, _Kept]:
    t, kv = q_BTNH.shape[1], k_BTKH.shape[2]
    q = _grouped(q_BTNH * scale, kv)
    rule = _Rule(parts, t, cap, seen)

    def meet(met: _Met, block: tuple[jax.Array, jax.Array], owner: jax.Array) -> _Met:
        def chunk(met: _Met, part: tuple[jax.Array, ...]) -> tuple[_Met, None]:
            first, k, v = part
            scores = rule.scores(q, k, owner, first)[0]
            top = jnp.maximum(met.top, jnp.max(scores, axis=-1, keepdims=True))
            weights, before = jnp.exp(scores - top), jnp.exp(met.top - top)
            total = met.total * before + jnp.sum(weights, axis=-1, keepdims=True)
            out = met.out * before + product("bkqs,bksh->bkqh", weights.astype(v.dtype), v)
            return _Met(top, total, out), None

        return _over_chunks(chunk, met, *block)[0]

    column = jnp.zeros((*q.shape[:3], 1), jnp.float32)
    met, block = _Met(column + FLOOR, column, jnp.zeros(q.shape, jnp.float32)), (_by_head(k_BTKH), _by_head(v_BTKH))

    def step(carry: tuple[_Met, Any], number: jax.Array) -> tuple[tuple[_Met, Any], None]:
        met, block = carry
        return (rule.where_near(meet, number, met, block), _handed_on(parts, block)), None

    (met, block), _ = jax.lax.scan(step, (met, block), jnp.arange(rule.steps - 1))
    met = rule.where_near(meet, jnp.asarray(rule.steps - 1), met, block)
    out_BTNH = _apart((met.out / met.total).astype(v_BTKH.dtype), t)
    return out_BTNH, _Kept(q_BTNH, k_BTKH, v_BTKH, seen, out_BTNH, met.top + jnp.log(met.total))


def _backward(
    parts: int, scale: float, cap: float, kept: _Kept, slope_BTNH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    t, kv, dtype = kept.q.shape[1], kept.k.shape[2], kept.q.dtype
    q, slope = _grouped(kept.q * scale, kv), _grouped(slope_BTNH, kv)
    rule = _Rule(parts, t, cap, kept.seen)
    # What the softmax takes from every slope of a row of scores: their mean under its weights.
    mean = jnp.sum(slope.astype(jnp.float32) * _grouped(kept.out, kv).astype(jnp.float32), axis=-1, keepdims=True)

    def meet(carry: Any, block: tuple[jax.Array, jax.Array], owner: jax.Array) -> Any:
        of_q, of_k, of_v = carry

        def chunk(of_q: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            first, k, v = part
            scores, allowed, bent = rule.scores(q, k, owner, first)
            weights = where(allowed, jnp.exp(scores - kept.log_z), 0.0)
            made = weights * (product("bkqh,bksh->bkqs", slope.astype(v.dtype), v) - mean) * bent
            made = made.astype(dtype)
            of_v = product("bkqs,bkqh->bksh", weights.astype(v.dtype), slope.astype(v.dtype))
            return of_q + product("bkqs,bksh->bkqh", made, k), (product("bkqs,bkqh->bksh", made, q), of_v)

        of_q, (more_k, more_v) = _over_chunks(chunk, of_q, *block)
        return of_q, of_k + more_k, of_v + more_v

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        (of_q, *of_block), block = carry
        of_q, *of_block = rule.where_near(meet, number, (of_q, *of_block), block)
        # The gradients of keys and values go around with these.
        return ((of_q, *_handed_on(parts, of_block)), _handed_on(parts, block)), None

    block = (_by_head(kept.k), _by_head(kept.v))
    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, *block))
    (carry, block), _ = jax.lax.scan(step, (zeros, block), jnp.arange(rule.steps - 1))
    of_q, *of_block = rule.where_near(meet, jnp.asarray(rule.steps - 1), carry, block)
    of_k, of_v = _handed_on(parts, of_block, 1 - rule.steps)
    of_q_BTNH = _apart(of_q, t) * scale
    of_k, of_v = (x.transpose(0, 2, 1, 3).astype(kept.k.dtype) for x in (of_k, of_v))
    return of_q_BTNH.astype(dtype), of_k, of_v, None


ring.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Which keys the queries of this device see, of parts of `length` positions."""

    parts: int
    length: int
    cap: float
    seen: Seen

    @property
    def steps(self) -> int:
        """How many parts are met, this device's own among them: with a window, those that some query may reach."""
        seen = self.seen
        if not (seen.triangle and seen.window):
            return self.parts
        return min(self.parts, (seen.window + self.length - 2) // self.length + 1)

    def where_near(self, meet: Callable[..., Any], step: jax.Array, carry: Any, block: Any) -> Any:
        """What `meet` makes of the part that is here in a step; the carry as it is where no query can see any of it."""
        me = jax.lax.axis_index(CONTEXT)
        owner = (me - step) % self.parts
        if not self.seen.triangle:
            return meet(carry, block, owner)
        near = owner <= me
        if self.seen.reach is not None:
            near &= (self.seen.reach == 0) | ((me - owner - 1) * self.length + 1 < self.seen.reach)
        return jax.lax.cond(near, lambda: meet(carry, block, owner), lambda: carry)

    def scores(
        self, q: jax.Array, k: jax.Array, owner: jax.Array, first: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | float]:
        """Of queries [B, K, Q, H] and some keys [B, K, S, H], from number `first` of a part on: the scores float32 [B, K, Q, S], FLOOR where
        they are not seen; which are, bool [1 or B, length, S]; and the slope of the soft cap."""
        raw = soft_cap(product("bkqh,bksh->bkqs", q, k), self.cap)
        keys = raw.shape[3]
        allowed = self._allowed(owner, first, keys)
        return where(allowed, raw, FLOOR), allowed, 1 - jnp.square(raw / self.cap) if self.cap else 1.0

    def _allowed(self, owner: jax.Array, first: jax.Array, keys: int) -> jax.Array:
        """The mask, bool [1 or B, length, keys], of this device's queries and keys of another's."""
        seen, at = self.seen, owner * self.length + first

        def part(pair: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array] | None:
            if pair is None:
                return None
            more = -self.length % keys  # the last chunk's, which are none
            return pair[0], jax.lax.dynamic_slice_in_dim(jnp.pad(pair[1], ((0, 0), (0, more))), at, keys, 1)

        away = jax.lax.axis_index(CONTEXT) * self.length - at  # of the first query from the first key
        own = dataclasses.replace(seen, first=away, segments=part(seen.segments), prefix=part(seen.prefix))
        allowed = own.allowed(Span(0, self.length), Span(0, keys))
        return allowed & (first + jnp.arange(keys) < self.length) if self.length % keys else allowed


def _over_chunks(function: Callable[..., Any], carry: Any, *arrays: jax.Array) -> tuple[Any, Any]:
    """`function(carry, (number of the first key, a chunk of each array))` of all chunks of arrays [B, K, S, H] in turn: the carry, and what
    comes of each put together, [B, K, S, H] again."""
    length = arrays[0].shape[2]
    if length <= CHUNK:
        return function(carry, (jnp.asarray(0), *arrays))
    count = -(-length // CHUNK)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, count * CHUNK - length), (0, 0)))
        return jnp.moveaxis(x.reshape(*x.shape[:2], count, CHUNK, x.shape[3]), 2, 0)

    def joined(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :length]

    carry, made = jax.lax.scan(function, carry, (CHUNK * jnp.arange(count), *map(cut, arrays)))
    return carry, jax.tree.map(joined, made)


def _handed_on(parts: int, arrays: Any, by: int = 1) -> Any:
    """Arrays of the device that is `by` before this one."""
    return jax.lax.ppermute(arrays, CONTEXT, [(i, (i + by) % parts) for i in range(parts)])


def _by_head(x_BTKH: jax.Array) -> jax.Array:
    return x_BTKH.transpose(0, 2, 1, 3)


def _grouped(x_BTNH: jax.Array, kv: int) -> jax.Array:
    """[B, K, Q, H]: the queries of all heads of a group."""
    b, _, _, h = x_BTNH.shape
    return by_heads(x_BTNH, kv).reshape(b, kv, -1, h)


def _apart(x_BKQH: jax.Array, length: int) -> jax.Array:
    """[B, T, N, H] again."""
    b, kv, _, h = x_BKQH.shape
    return of_heads(x_BKQH.reshape(b, kv, -1, length, h))
