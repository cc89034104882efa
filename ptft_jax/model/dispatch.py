"""Tokens to experts and back: those of one device, or of several that have some of the experts each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ptft_jax.model.layers import PerRow
from ptft_jax.model.layout import EXPERTS, ROWS

ROOM = 1.25  # what an exchange has room for, of what it would need if every device got the same


class Routed(NamedTuple):
    """Rows sorted by the expert they go to.

    Attributes:
      rows: [N, in], those of one expert after those of another; what comes after the last expert's is of none.
      sizes: int [E], how many go to each expert.
      per_row: has a dropout key for each of them, or none.
    """

    rows: jax.Array
    sizes: jax.Array
    per_row: PerRow | None


class Sent(NamedTuple):
    """The tokens of a device by where they go: each to several experts.

    Attributes:
      x: [n, D], the tokens.
      expert: int [n * each], of which expert, sorted.
      source: int [n * each], which of the n * each places it is: token `source // each`.
      weights: [n * each], of each place.
      keys: of dropout [n * each], in the order of `source`, or None.
    """

    x: jax.Array
    expert: jax.Array
    source: jax.Array
    weights: jax.Array
    keys: jax.Array | None


def sent(x_BTD: jax.Array, weights: jax.Array, chosen: jax.Array, keys: jax.Array | None) -> Sent:
    """Of tokens [B, T, D] the chosen experts, int [B, T, each], and their weights; `keys` [B] of dropout."""
    length, each = chosen.shape[1:]
    source = jnp.argsort(chosen.reshape(-1))
    if keys is not None:
        # Of a token's own for each of its experts, whatever else is in the batch.
        keys = jax.vmap(jax.random.fold_in)(keys[source // each // length], source % (length * each))
    x = x_BTD.reshape(-1, x_BTD.shape[-1])
    return Sent(x, chosen.reshape(-1)[source], source, weights.reshape(-1), keys)


def here(run: Callable[[Routed], jax.Array], count: int, tokens: Sent) -> jax.Array:
    """[n, D]: what `count` experts make of tokens, summed with their weights, where all experts are on the device."""
    x, each = tokens.x, tokens.source.size // tokens.x.shape[0]
    token = tokens.source // each
    sizes = jnp.bincount(tokens.expert, length=count)
    y = run(Routed(x[token], sizes, _per_row(tokens.keys)))
    y = y * tokens.weights[tokens.source][:, None].astype(x.dtype)
    return jnp.zeros_like(x).at[token].add(y)


def exchanged(run: Callable[[Routed], jax.Array], count: int, parts: int, tokens: Sent) -> jax.Array:
    """As `here`, by devices along EXPERTS, of which each has `count` / `parts` of the experts, in order.

    Every device sends as many rows to each other, by all-to-all (Lepikhin et al. 2020, "GShard", section 3.2), and there is room for ROOM
    times what each gets where experts are used evenly. No token is dropped: what did not fit goes in further rounds, which are left out where
    no device has anything left.
    """
    n, each = tokens.x.shape[0], tokens.source.size // tokens.x.shape[0]
    own = count // parts
    most = n * min(each, own)  # rows of one device for another
    room = min(math.ceil(tokens.source.size / parts * ROOM), most)
    ends = jnp.searchsorted(tokens.expert, own * jnp.arange(1, parts + 1))
    starts = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])
    longest = jax.lax.pmax(jnp.max(ends - starts), ROWS)  # all devices go on, or none

    def exchange(x: jax.Array) -> jax.Array:
        return jax.lax.all_to_all(x, EXPERTS, 0, 0, tiled=True)

    @jax.checkpoint  # what is exchanged is exchanged again in the backward pass, not kept of all rounds
    def one(number: jax.Array, tokens: Sent) -> jax.Array:
        place = starts[:, None] + number * room + jnp.arange(room)  # [parts, room]
        valid = (place < ends[:, None]).reshape(-1)
        place = jnp.minimum(place, tokens.source.size - 1).reshape(-1)
        source = tokens.source[place]
        got = exchange(jnp.where(valid[:, None], tokens.x[source // each], 0))
        expert = exchange(jnp.where(valid, tokens.expert[place] % own, own))
        order = jnp.argsort(expert)
        keys = tokens.keys
        if keys is not None:
            keys = jax.random.wrap_key_data(
                exchange(jax.random.key_data(keys)[place])[order], impl=jax.random.key_impl(keys)
            )
        y = run(Routed(got[order], jnp.bincount(expert, length=own), _per_row(keys)))
        y = jnp.zeros_like(y).at[order].set(jnp.where((expert < own)[order][:, None], y, 0))
        y = exchange(y) * jnp.where(valid, tokens.weights[source], 0)[:, None].astype(y.dtype)
        return jnp.zeros_like(tokens.x).at[source // each].add(y)

    total = one(jnp.zeros((), jnp.int32), tokens)
    if room == most:
        return total

    def further(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.cond(longest > number * room, lambda t: t + one(number, tokens), lambda t: t, total), None

    return jax.lax.scan(further, total, jnp.arange(1, math.ceil(most / room)))[0]


def _per_row(keys: jax.Array | None) -> PerRow | None:
    return None if keys is None else PerRow(keys, None)
