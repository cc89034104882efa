"""Scaled dot-product attention: the one place where queries meet keys, and what carries it out on each platform."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ptft_jax.model.layers import soft_cap

BLOCKS = 4  # of queries at most
BLOCK = 64  # queries of a block at least; also what a row needs for the blocked form to be worth its transposes

_AMPERE = 8.0  # compute capability of the first GPUs that cuDNN has flash attention for
FLOOR = float(jnp.finfo(jnp.float32).min)  # of scores; finite, so rows that see nothing (padding) are free of NaN
_RULES = ("causal", "window", "shared", "before")
_ARRAYS = ("segments", "prefix", "positions", "first", "reach", "listed")


@functools.partial(jax.tree_util.register_dataclass, data_fields=_ARRAYS, meta_fields=_RULES)
@dataclasses.dataclass(frozen=True)
class Seen:
    """Which keys a query may see, as rules, of which kernels know what no ready mask says.

    Queries and keys have slots: the keys theirs in order from 0, the queries from `first` on. Of all rules that are given, a
    key has to satisfy each.

    Attributes:
      causal: a query sees its own slot and those before it.
      window: it sees keys less than this many slots away (Child et al. 2019; Jiang et al. 2023); 0 = however far.
      shared: the keys of the first so many slots are part of every segment.
      before: so many keys come before those with slots, at positions 0 to `before` - 1: a learned prefix. Every query sees
        them, whatever its segment; with a window, those less than the window before its position.
      segments: int [B, T] of queries and [B, S] of keys; equal ones see each other. None = all do.
      prefix: bool [B, T] of queries and [B, S] of keys; those of it see each other in both directions, where causal.
      positions: int [B, T] of queries, counted with the keys of `before`; only read with those and a window.
      first: int [] or [B]; None = 0, which kernels can rely on.
      reach: int [], in place of `window` where one program serves layers with several; 0 there is no window.
      listed: bool [1 or B, T, S], which of the keys with slots a query sees at most, where a cache is read.
    """

    causal: bool = True
    window: int = 0
    shared: int = 0
    before: int = 0
    segments: tuple[jax.Array, jax.Array] | None = None
    prefix: tuple[jax.Array, jax.Array] | None = None
    positions: jax.Array | None = None
    first: jax.Array | int | None = None
    reach: jax.Array | None = None
    listed: jax.Array | None = None

    @property
    def plain_triangle(self) -> bool:
        """Whether a query sees what is not after it, and that is all there is to it."""
        rest = (self.segments, self.prefix, self.first, self.reach, self.listed)
        return self.causal and not self.window and not self.before and all(a is None for a in rest)

    @property
    def as_words(self) -> dict[str, Any] | None:
        """The rules as arguments of `jax.nn.dot_product_attention`; None where they need a mask: it knows no segments, and a
        window only before a query and where its size is known when the program is compiled."""
        if self.before or any(getattr(self, name) is not None for name in _ARRAYS):
            return None
        if self.window:
            return {"is_causal": True, "local_window_size": (self.window - 1, 0)} if self.causal else None
        return {"is_causal": self.causal}

    @property
    def triangle(self) -> bool:
        """Whether no query sees a slot after its own, and which that is is known when the program is compiled."""
        return self.causal and self.prefix is None and self.first is None

    def allowed(self, queries: Span, keys: Span) -> jax.Array:
        """The rules as a mask of some queries and keys, bool [1 or B, queries, keys].

        Args:
          queries, keys: of the call's; keys from those of `before` on.
        """
        query, key = queries.order()[:, None], keys.order()[None, :] - self.before
        if self.first is not None:
            query = jnp.reshape(self.first, (-1, 1, 1)) + query
        seen = query >= key if self.causal else jnp.ones((queries.size, keys.size), bool)
        seen = seen.reshape(-1, queries.size, keys.size)
        if self.prefix is not None:
            first, second = self._of(self.prefix, queries, keys)
            seen = seen | (first & second)
        if self.segments is not None:
            first, second = self._of(self.segments, queries, keys)
            seen = seen & ((first == second) | (key < self.shared) if self.shared else first == second)
        if self.window or self.reach is not None:
            seen = seen & (jnp.abs(query - key) < self._window)
        if self.listed is not None:
            listed = jnp.pad(self.listed, ((0, 0), (0, 0), (self.before, 0)))
            seen = seen & listed[:, queries.start : queries.stop, keys.start : keys.stop]
        if not self.before or keys.start >= self.before:
            return seen
        return jnp.where(key < 0, self._prefixed(queries, keys), seen)

    @property
    def _window(self) -> int | jax.Array:
        if self.reach is None:
            return self.window
        return jnp.where(self.reach > 0, self.reach, jnp.iinfo(jnp.int32).max)

    def _prefixed(self, queries: Span, keys: Span) -> jax.Array:
        """Which of the keys of `before` the queries see, of all `keys`."""
        if not self.window and self.reach is None:
            return jnp.ones((), bool)
        assert self.positions is not None, "with a window, how far a learned prefix is depends on where queries are"
        at = self.positions[:, queries.start : queries.stop, None]
        return at - keys.order()[None, None] < self._window

    def _of(self, pair: tuple[jax.Array, jax.Array], queries: Span, keys: Span) -> tuple[jax.Array, jax.Array]:
        """What queries and keys have, to be compared: [B, queries, 1] and [B, 1, keys]."""
        first, second = pair
        if self.before:
            second = jnp.pad(second, ((0, 0), (self.before, 0)))
        return first[:, queries.start : queries.stop, None], second[:, None, keys.start : keys.stop]


EVERYTHING = Seen(causal=False)


class Span(NamedTuple):
    """Consecutive queries or keys."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def order(self) -> jax.Array:
        """Their numbers, int [size]."""
        return jnp.arange(self.start, self.stop)


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    seen: Seen,
    *,
    scale: float,
    cap: float = 0.0,
    implementation: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) with grouped keys (Ainslie et al. 2023). Returns [B, T, N, H].

    The softmax is taken in float32. A query that sees no key (padding) gets the mean of all values that stand with it, a finite
    number that nothing is made of.

    Args:
      q_BTNH: queries; head n reads the keys and values of head n * K // N.
      k_BSKH, v_BSKH: keys and values, those of `seen.before` first.
      seen: which keys a query may see.
      scale: factor on the scores.
      cap: soft cap on scores (`ptft_jax.model.layers.soft_cap`); 0 = none.
      implementation: "cudnn", with a mask where it has no word for the rules; "xla": what is fastest of XLA's where the program is lowered,
        on CPUs `_blocked`, of which the plain formula is the reference; "auto": cuDNN where a program is lowered for a GPU, in bfloat16, without a cap
        and without a mask, and XLA's elsewhere.
    """
    if implementation == "cudnn":
        return _fused(scale, q_BTNH, k_BSKH, v_BSKH, seen)
    plain = functools.partial(_plain, scale, cap)
    if q_BTNH.shape[1] < BLOCK:
        return plain(q_BTNH, k_BSKH, v_BSKH, seen)
    ways = {"cpu": functools.partial(_blocked, scale, cap)}
    if implementation == "auto" and not cap and _fusible(q_BTNH, k_BSKH, v_BSKH, seen):
        ways["cuda"] = functools.partial(_fused, scale)
    return jax.lax.platform_dependent(q_BTNH, k_BSKH, v_BSKH, seen, **ways, default=plain)


def attention_to_cache(
    q_BTNH: jax.Array, keys: jax.Array, values: jax.Array, seen: Seen, *, scale: float, cap: float
) -> jax.Array:
    """As `attention`, to keys and values as a cache has them, [B * K, S, H], which both products read as they lie."""
    b, t, n, h = q_BTNH.shape
    kv = keys.shape[0] // b
    # Heads of a group, and their positions, are rows of one product.
    q = jnp.moveaxis((q_BTNH * scale).reshape(b, t, kv, n // kv, h), 1, 3).reshape(b * kv, -1, h)
    scores = jax.lax.dot_general(q, keys, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    scores = soft_cap(scores, cap).reshape(b, kv, n // kv, t, -1)
    allowed = seen.allowed(Span(0, t), Span(0, keys.shape[1]))
    scores = jnp.where(allowed[:, None, None], scores, FLOOR)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype).reshape(b * kv, (n // kv) * t, -1)
    y = jax.lax.dot_general(weights, values, (((2,), (1,)), ((0,), (0,))))
    return jnp.moveaxis(y.reshape(b, kv, n // kv, t, h), 3, 1).reshape(b, t, n, h)


def _plain(scale: float, cap: float, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen) -> jax.Array:
    """The formula, for compilers that fuse it themselves."""
    weights = weights_of(scale, cap, q_BTNH, k_BSKH, seen).astype(v_BSKH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v_BSKH).reshape(q_BTNH.shape)


def weights_of(scale: float, cap: float, q_BTNH: jax.Array, k_BSKH: jax.Array, seen: Seen) -> jax.Array:
    """The softmax of `attention`, float32 [B, K, N / K, T, S]: how much each query attends to each key."""
    b, t, n, h = q_BTNH.shape
    s, kv = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(b, t, kv, n // kv, h)
    scores = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH * scale, k_BSKH, preferred_element_type=jnp.float32)
    allowed = seen.allowed(Span(0, t), Span(0, s))
    return jax.nn.softmax(jnp.where(allowed[:, None, None], soft_cap(scores, cap), FLOOR), axis=-1)


def _fused(scale: float, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen) -> jax.Array:
    """cuDNN's flash attention (Dao 2023, "FlashAttention-2")."""
    rules: dict[str, Any] | None = seen.as_words
    if rules is None:
        rules = {"mask": seen.allowed(Span(0, q_BTNH.shape[1]), Span(0, k_BSKH.shape[1]))[:, None]}
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, scale=scale, **rules, implementation="cudnn")


def _fusible(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen) -> bool:
    """Whether cuDNN is there, knows the rules without a mask, and takes these sizes. Where the GPU is not here, as of a program that is
    lowered for another machine, it is taken to be one that can."""
    if q_BTNH.dtype != jnp.bfloat16 or seen.as_words is None:
        return False
    if jax.default_backend() == "gpu":
        capability = getattr(jax.local_devices()[0], "compute_capability", None)  # none of AMD's
        if capability is None or float(capability) < _AMPERE:
            return False

    def there_and_back(*x: jax.Array) -> tuple[jax.Array, ...]:
        """What training asks for: cuDNN takes fewer sizes with gradients than without."""
        y, back = jax.vjp(lambda q, k, v: _fused(1.0, q, k, v, seen), *x)
        return back(y)

    try:
        jax.eval_shape(there_and_back, q_BTNH, k_BSKH, v_BSKH)
    except (RuntimeError, NotImplementedError, ValueError):  # no cuDNN; sizes that it does not take
        return False
    return True


class _Block(NamedTuple):
    """Queries, and the keys that hold all that they may see."""

    queries: Span
    keys: Span


class _Kept(NamedTuple):
    """What the backward pass needs: queries [B, K, G, T, H] times the scale, keys and values [B, K, S, H], the exponentials of each
    block's scores [B, K, G * queries, keys] with their sums, and what came of it [B, T, N, H]."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    seen: Seen
    weights: tuple[tuple[jax.Array, jax.Array], ...]
    out: jax.Array


def _blocks(length: int, keys: int, seen: Seen) -> list[_Block]:
    """Rows are cut only where that saves something: where keys after a query are out of sight."""
    if not seen.triangle:
        return [_Block(Span(0, length), Span(0, keys))]
    size = -(-length // min(BLOCKS, max(length // BLOCK, 1)))
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        nearest = max(start - seen.window + 1, 0) if seen.window and not seen.before else 0
        blocks.append(_Block(Span(start, stop), Span(nearest, min(seen.before + stop, keys))))
    return blocks


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocked(
    scale: float, cap: float, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen
) -> jax.Array:
    """As `_plain`, as XLA's CPU compiler does it best: products of one matrix with one other for each row and head; queries in
    blocks, of which none has scores of keys that come after it; in the backward pass, the softmax's exponentials as they were, and the gradients
    of keys and values with positions last, which spares its products a transpose."""
    return _blocked_forward(scale, cap, q_BTNH, k_BSKH, v_BSKH, seen)[0]


def _blocked_forward(
    scale: float, cap: float, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen
) -> tuple[jax.Array, _Kept]:
    b, t, n, h = q_BTNH.shape
    s, kv = k_BSKH.shape[1:3]
    q = by_heads(q_BTNH * scale, kv)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k_BSKH, v_BSKH))  # [B, K, S, H]
    outs, kept = [], []
    for queries, keys in _blocks(t, s, seen):
        own_k, own_v = (x[:, :, keys.start : keys.stop] for x in (k, v))
        scores = soft_cap(product("bkmh,bksh->bkms", _rows(q, queries), own_k), cap)
        scores = where(seen.allowed(queries, keys), scores, FLOOR)
        weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        # Divided after the product, which has fewer numbers.
        out = (product("bkms,bksh->bkmh", weights.astype(v.dtype), own_v) / total).astype(v.dtype)
        outs.append(out.reshape(b, kv, n // kv, queries.size, h))
        kept.append((weights, total))
    out = of_heads(jnp.concatenate(outs, 3))
    return out, _Kept(q, k, v, seen, tuple(kept), out)


def _blocked_backward(
    scale: float, cap: float, kept: _Kept, slope_BTNH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, seen, kept_weights, out = kept
    b, kv, groups, t, h = q.shape
    s, wide = k.shape[2], jnp.float32
    slope = by_heads(slope_BTNH, kv)
    # What the softmax takes from every slope of a row of scores: their mean under its weights.
    mean = by_heads(jnp.sum(slope_BTNH.astype(wide) * out.astype(wide), axis=-1, keepdims=True), kv)
    of_q, of_k, of_v = [], jnp.zeros((b, kv, h, s), wide), jnp.zeros((b, kv, h, s), wide)
    for (queries, keys), (weights, total) in zip(_blocks(t, s, seen), kept_weights):
        own_k, own_v = (x[:, :, keys.start : keys.stop] for x in (k, v))
        own_q, own = _rows(q, queries), _rows(slope, queries) / total
        scores = weights * (product("bkmh,bksh->bkms", own.astype(v.dtype), own_v) - _rows(mean, queries) / total)
        if cap:
            scores = scores * (1 - jnp.square(jnp.tanh(product("bkmh,bksh->bkms", own_q, own_k) / cap)))
        if not seen.plain_triangle:  # a query that sees nothing gives no slope to what it does not see
            scores = where(seen.allowed(queries, keys), scores, 0.0)
        scores = scores.astype(q.dtype)
        of_q.append(jnp.einsum("bkms,bksh->bkmh", scores, own_k).reshape(b, kv, groups, queries.size, h))
        place = ((0, 0), (0, 0), (0, 0), (keys.start, s - keys.stop))
        of_k = of_k + jnp.pad(product("bkmh,bkms->bkhs", own_q, scores), place)
        of_v = of_v + jnp.pad(product("bkmh,bkms->bkhs", own.astype(v.dtype), weights.astype(v.dtype)), place)
    of_q_BTNH = of_heads(jnp.concatenate(of_q, 3)) * scale
    of_k, of_v = (x.transpose(0, 3, 1, 2).astype(k.dtype) for x in (of_k, of_v))
    return of_q_BTNH, of_k, of_v, None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def where(allowed: jax.Array, scores: jax.Array, other: float) -> jax.Array:
    """Scores [B, K, G * queries, keys] where the mask [1 or B, queries, keys] is True."""
    b, k, _, keys = scores.shape
    apart = scores.reshape(b, k, -1, allowed.shape[1], keys)
    return jnp.where(allowed[:, None, None], apart, other).reshape(scores.shape)


def product(formula: str, *operands: jax.Array) -> jax.Array:
    """`jnp.einsum` with sums in float32, which is what comes out."""
    return jnp.einsum(formula, *operands, preferred_element_type=jnp.float32)


def by_heads(x_BTNH: jax.Array, kv: int) -> jax.Array:
    """[B, K, G, T, H]"""
    b, t, n, h = x_BTNH.shape
    return x_BTNH.reshape(b, t, kv, n // kv, h).transpose(0, 2, 3, 1, 4)


def of_heads(x_BKGTH: jax.Array) -> jax.Array:
    """[B, T, N, H], of which `by_heads` made it."""
    b, k, g, t, h = x_BKGTH.shape
    return x_BKGTH.transpose(0, 3, 1, 2, 4).reshape(b, t, k * g, h)


def _rows(x_BKGTH: jax.Array, queries: Span) -> jax.Array:
    """Some queries of all heads of a group as the rows of one matrix, [B, K, G * queries, H]."""
    b, k, _, _, h = x_BKGTH.shape
    return x_BKGTH[:, :, :, queries.start : queries.stop].reshape(b, k, -1, h)
