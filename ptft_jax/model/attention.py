"""Multi-head attention with grouped keys, rotary positions and a key/value cache, as a layer of the transformer."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model import rotary
from ptft_jax.model.dot_product import Seen, attention, attention_to_cache, weights_of
from ptft_jax.model.layers import Linear, Norm, PerRow, SublayerAdapter
from ptft_jax.model.ring import ring
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.splash import splash, takes

Cache = tuple[jax.Array, jax.Array]  # one layer's keys and values, each [B * K, S, H]


class View(NamedTuple):
    """What a layer attends to: which keys are seen, and how its positions rotate queries and keys (None = not at all).

    `prefix` is the layer's keys and values before those of the row (`Seen.before`), each [n, K * H], where what makes them is
    shared by all layers (see `Trunk.prefix`).
    """

    seen: Seen
    rotation: rotary.Table | None
    prefix: tuple[jax.Array, jax.Array] | None = None


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
        residual_std = spec.hidden_std / (2 * spec.layers) ** 0.5
        bias = "qkv" in spec.biases
        self.query = Linear(spec.width, inner, spec, rngs, bias=bias, std=spec.hidden_std)
        self.key = Linear(spec.width, kv, spec, rngs, bias=bias, std=spec.hidden_std)
        self.value = Linear(spec.width, kv, spec, rngs, bias=bias, std=spec.hidden_std)
        self.out = Linear(inner, spec.width, spec, rngs, bias="out" in spec.biases, std=residual_std)
        # Over each head (Qwen 3, Gemma 3), or over all heads at once (OLMo 2).
        sizes = {"head": (spec.head_dim, spec.head_dim), "all": (inner, kv)}.get(spec.query_key_norm)
        self.query_norm = Norm(spec, sizes[0]) if sizes else None
        self.key_norm = Norm(spec, sizes[1]) if sizes else None
        self.prefix: Callable[[Attention, jax.Array, jax.Array, jax.Array, View], jax.Array] | None = None
        self.adapter: SublayerAdapter | None = None
        # Says where heads are, of queries, keys and values [B, T, heads, H]; None: there is one device.
        self.spread: Callable[[jax.Array], jax.Array] | None = None
        # Carries out a function of (queries, keys, values, `Seen`) of each device's own rows and heads, of which each of `parts` devices has some
        # of the positions. None: XLA divides what it compiles itself.
        self.around: Callable[..., jax.Array] | None = None
        self.parts = 1

    def __call__(
        self,
        x_BTD: jax.Array,
        view: View,
        cache: Cache | None = None,
        start: int | jax.Array | None = None,
        per_row: PerRow | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Returns ([B, T, D], cache). The new keys and values are written to the cache from slot `start` on (of all rows, or
        [B]), and all S slots are attended to as the view has it."""
        q, k, v = self._projected(x_BTD, view, per_row)
        if cache is not None:
            assert start is not None, "what is written to a cache has a slot"
            cache = (_written(cache[0], k, start), _written(cache[1], v, start))
            if self.prefix is None and self.spec.attention != "cudnn":
                y = attention_to_cache(q, *cache, view.seen, scale=self.scale, cap=self.spec.attention_cap)
                return self.out(y.reshape(*x_BTD.shape[:2], -1), per_row), cache
            rows = x_BTD.shape[0]
            k, v = (jnp.swapaxes(kept.reshape(rows, -1, *kept.shape[1:]), 1, 2) for kept in cache)
        y = self.attend(q, k, v, view.seen) if self.prefix is None else self.prefix(self, q, k, v, view)
        return self.out(y.reshape(*x_BTD.shape[:2], -1), per_row), cache

    def _projected(
        self, x_BTD: jax.Array, view: View, per_row: PerRow | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H]."""
        q = self._heads(self.query(x_BTD, per_row), self.query_norm)
        k, v = self.keys_and_values(x_BTD, per_row)
        if view.rotation is not None:
            q, k = rotary.rotate(q, view.rotation), rotary.rotate(k, view.rotation)
        return q, k, v

    def weights(self, x_BTD: jax.Array, view: View, per_row: PerRow | None = None) -> jax.Array:
        """How much each position attends to each, the mean over heads, float32 [B, T, T]. What learned keys before the row get is missing from
        its sums."""
        q, k, v = self._projected(x_BTD, view, per_row)
        found: list[jax.Array] = []

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, implementation: str = "") -> jax.Array:
            found.append(weights_of(self.scale, self.spec.attention_cap, q, k, seen))
            return jnp.zeros_like(q)

        if self.prefix is None:
            attend(q, k, v, view.seen)
        else:
            seen_by = types.SimpleNamespace(attend=attend, keys_and_values=self.keys_and_values)
            self.prefix(cast(Attention, seen_by), q, k, v, view)  # the row is what it attends to first
        return jnp.mean(found[0], axis=(1, 2))[..., -x_BTD.shape[1] :]

    @property
    def scale(self) -> float:
        """The factor on scores."""
        return self.spec.score_scale

    def keys_and_values(self, x_BTD: jax.Array, per_row: PerRow | None = None) -> tuple[jax.Array, jax.Array]:
        """Each [B, T, K, H], before rotation."""
        return self._heads(self.key(x_BTD, per_row), self.key_norm), self._heads(self.value(x_BTD, per_row), None)

    def attend(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, seen: Seen, implementation: str = ""
    ) -> jax.Array:
        """With this model's scale, cap and, by default, implementation: [B, T, N, H]. Keys of another implementation are whole on each device."""
        spec = self.spec
        if self.spread is not None:
            q_BTNH, k_BSKH, v_BSKH = map(self.spread, (q_BTNH, k_BSKH, v_BSKH))
        if self.around is not None and not implementation:
            if self.parts > 1:
                own = functools.partial(ring, self.parts, self.scale, spec.attention_cap)
                return self.around(own, q_BTNH, k_BSKH, v_BSKH, seen)
            if spec.attention == "auto" and takes(seen, q_BTNH.shape[1], k_BSKH.shape[1]):
                own = functools.partial(splash, self.scale, spec.attention_cap)
                return self.around(own, q_BTNH, k_BSKH, v_BSKH, seen)
        how = dict(scale=self.scale, cap=spec.attention_cap)
        return attention(q_BTNH, k_BSKH, v_BSKH, seen, **how, implementation=implementation or spec.attention)

    def _heads(self, x_BTC: jax.Array, norm: Norm | None) -> jax.Array:
        """Apart by heads [B, T, heads, H], normed as the model has it."""
        if norm is not None and self.spec.query_key_norm == "all":
            x_BTC = norm(x_BTC)
        x = x_BTC.reshape(*x_BTC.shape[:2], -1, self.spec.head_dim)
        return norm(x) if norm is not None and self.spec.query_key_norm == "head" else x
