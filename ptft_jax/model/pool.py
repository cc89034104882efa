"""The compiled half of generation: rows at different places of their texts, each continued against its part of one cache.

A row's token at position p is in slot p of its part, so rows come and go, and are of any length, without moving what is there.
Slots after a row's last token hold what earlier rows, padding or refused guesses left, which no query sees before it is
written anew.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ptft_jax.model.attention import Cache
from ptft_jax.model.dot_product import Seen, Span
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.sampling import Sampling, choose, log_probabilities, support_bits
from ptft_jax.model.transformer import Params, Transformer

STEPS = 16  # passes through the model between looks of the host
NOTHING, NOT_FINITE = -(2**31), -(2**31) + 1  # in place of a token: there is none; its logits are not finite
_GRAM = 3  # the most tokens at the text's end that are looked up in it


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled program depends on.

    Attributes:
      prefix: the model reads a prompt in both directions.
      logprobs: whether to say with which probabilities tokens came.
      support: whether to say which tokens could have come.
      ahead: how many tokens are guessed for each pass through the model, which keeps those that it would have chosen itself
        (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"); 0 = none. They are those of
        `draft`, or, where it is None, those that came after the last earlier appearance of the text's last tokens (Saxena 2023,
        "Prompt Lookup Decoding").

    The model chooses with the same noise as without guesses, so that the result is the same, token for token. The draft chooses
    with it too: where its probabilities are near the model's, so are its choices (Daliri et al. 2025, "Coupling without
    Communication and Drafter-Invariant Speculative Decoding").
    """

    model: Transformer
    sampling: Sampling
    stop_ids: tuple[int, ...]
    prefix: bool
    logprobs: bool
    ahead: int = 0
    draft: Transformer | None = None
    support: bool = False

    @property
    def caching(self) -> tuple[Transformer, ...]:
        return (self.model,) if self.draft is None else (self.model, self.draft)


class Rows(NamedTuple):
    """R rows, each [R].

    Attributes:
      token: the last token of each, not in the cache yet.
      place: its slot.
      made: how many new tokens a row has, this one among them; `limit`: how many it may have.
      keys: of its noise.
      adapters: which adapter each has; None = the model has one for all.
      done: whether it is over.
    """

    token: jax.Array
    place: jax.Array
    made: jax.Array
    limit: jax.Array
    keys: jax.Array
    adapters: jax.Array | None
    done: jax.Array


class Pool(NamedTuple):
    """Rows with what they are continued from: a cache for each of `Plan.caching`; and their texts, int [R, S]."""

    rows: Rows
    caches: tuple[tuple[Cache, ...], ...]
    texts: jax.Array


class Shown(NamedTuple):
    """New tokens of rows, int [R, W]: those of a row, its end token inverted (~token), then NOTHING; and where they are asked
    for, their `log_probabilities`, [R, W, 2], and their `support_bits`, [R, W, V / 8]."""

    tokens: jax.Array
    logprobs: jax.Array | None
    support: jax.Array | None = None


@functools.partial(jax.jit, static_argnames=("plan", "rows", "slots", "adapters"))
def empty(plan: Plan, rows: int, slots: int, adapters: bool, key: jax.Array) -> Pool:
    """A pool of rows that are over."""
    counts = [jnp.zeros((rows,), jnp.int32) for _ in range(5)]
    keys = jnp.broadcast_to(key, (rows,))
    done = jnp.ones((rows,), bool)
    given = Rows(counts[0], counts[1], counts[2], counts[3], keys, counts[4] if adapters else None, done)
    return Pool(given, tuple(m.empty_cache(rows, slots) for m in plan.caching), jnp.zeros((rows, slots), jnp.int32))


@jax.jit
def noise(key: jax.Array, numbers_N: jax.Array) -> jax.Array:
    """The key of the noise of each row, by its number."""
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers_N)


@functools.partial(jax.jit, static_argnames="slots")
def grown(pool: Pool, slots: int) -> Pool:
    """The pool with so many slots."""
    more = slots - pool.texts.shape[1]
    caches = jax.tree.map(lambda kept: jnp.pad(kept, ((0, 0), (0, more), (0, 0))), pool.caches)
    return pool._replace(caches=caches, texts=jnp.pad(pool.texts, ((0, 0), (0, more))))


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="pool")
def admit(
    plan: Plan,
    params: tuple[Params, ...],
    pool: Pool,
    tokens_NT: jax.Array,
    fresh: Rows,
    at_N: jax.Array,
    images: jax.Array | None = None,
) -> tuple[Pool, Shown]:
    """Puts new rows in the places `at_N` of the pool (those out of its range are dropped), each with its first new token.

    Args:
      tokens_NT: their prompts behind the ids of learned vectors, then padding.
      images: of the rows [N, size, size, channels] (`ptft_jax.model.inputs.Inputs`); None = they have none.
      fresh: the rows; `place` is that of the prompt's last token, `token` and `made` are not read.
    """
    length, last = tokens_NT.shape[1], fresh.place[:, None]
    x_NTD, new = _read(plan.model, params[0], tokens_NT, last, fresh.adapters, plan.prefix, images)
    logits_NV = plan.model.next_logits(params[0], jnp.take_along_axis(x_NTD, last[..., None], axis=1))[:, 0]
    caches = [_housed(pool.caches[0], new, at_N)]
    if plan.draft is not None:
        skipped = plan.model.virtual_tokens
        _, new = _read(plan.draft, params[1], tokens_NT[:, skipped:], last - skipped, None, False)
        caches.append(_housed(pool.caches[1], new, at_N))
    fresh = fresh._replace(made=jnp.zeros_like(fresh.made))
    token, shown, ends = _chosen(plan, logits_NV[:, None], fresh)
    texts_NT = _put(jnp.pad(tokens_NT, ((0, 0), (0, 1))), token, fresh.place + 1)
    fresh = fresh._replace(
        token=token[:, 0], place=fresh.place + 1, made=fresh.made + 1, done=ends[:, 0] | (fresh.limit <= 1)
    )
    rows = jax.tree.map(lambda a, b: a.at[at_N].set(b, mode="drop"), pool.rows, fresh)
    texts = pool.texts.at[at_N, : length + 1].set(texts_NT[:, : pool.texts.shape[1]], mode="drop")
    return Pool(rows, tuple(caches), texts), shown


def _housed(kept: tuple[Cache, ...], new: tuple[Cache, ...], at_N: jax.Array) -> tuple[Cache, ...]:
    """The caches of R rows with those of N rows, of fewer slots, in the places `at_N`."""

    def one(kept: jax.Array, new: jax.Array) -> jax.Array:
        own = new.reshape(at_N.shape[0], -1, *new.shape[1:])
        all_RKSH = kept.reshape(-1, own.shape[1], *kept.shape[1:])
        return all_RKSH.at[at_N, :, : new.shape[1]].set(own, mode="drop").reshape(kept.shape)

    return jax.tree.map(one, kept, new)


def _read(
    model: Transformer,
    params: Params,
    tokens_NT: jax.Array,
    last_N1: jax.Array,
    adapters: Any,
    prefix: bool,
    images: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Cache, ...]]:
    """The hidden states of prompts, and a cache of them."""
    rows, length = tokens_NT.shape
    order = jnp.arange(length)[None]
    seen = Seen()
    if prefix:  # all of the prompt sees all of it, but what is learned before it (see Transformer.hidden)
        own = (order >= model.virtual_tokens) & (order <= last_N1)
        seen = Seen(prefix=(own, own))
    seen_NTT = jnp.broadcast_to(seen.allowed(Span(0, length), Span(0, length)), (rows, length, length))
    # A draft may have fewer positions than the prompt has tokens: what it guesses then is bad, and still finite.
    most = model.spec.max_length - model.prefix_length - 1
    inputs = Inputs(tokens_NT, jnp.minimum(jnp.minimum(order, last_N1), most), adapters=adapters, images=images)
    return model.extend(params, inputs, seen_NTT, model.empty_cache(rows, length), 0)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="pool")
def advance(plan: Plan, params: tuple[Params, ...], pool: Pool, done_R: jax.Array) -> tuple[Pool, Shown]:
    """Continues rows by up to `STEPS` passes through the model, each of which gives a row at least one token.

    Args:
      done_R: rows that are over, whatever the pool knows.
    """
    width = 1 + plan.ahead
    size = pool.rows.token.shape[0]
    tokens = jnp.full((size, STEPS * width), NOTHING, jnp.int32)
    bits = jnp.zeros((*tokens.shape, -(-plan.model.spec.vocab_size // 8)), jnp.uint8) if plan.support else None
    shown = Shown(tokens, jnp.zeros((*tokens.shape, 2), jnp.float32) if plan.logprobs else None, bits)
    pool = pool._replace(rows=pool.rows._replace(done=pool.rows.done | done_R))
    State = tuple[jax.Array, Pool, Shown, jax.Array]

    def going(state: State) -> jax.Array:
        return (state[0] < STEPS) & ~state[1].rows.done.all()

    def one(state: State) -> State:
        step, pool, shown, written = state
        before = pool.rows.made
        pool, new = _pass(plan, params, pool)
        shown = jax.tree.map(functools.partial(_put, at_R=written), shown, new)
        return step + 1, pool, shown, written + pool.rows.made - before

    _, pool, shown, _ = jax.lax.while_loop(going, one, (jnp.int32(0), pool, shown, jnp.zeros((size,), jnp.int32)))
    return pool, shown


def _put(all_RW: jax.Array, new_RT: jax.Array, at_R: jax.Array) -> jax.Array:
    """Each row with what is new from `at_R` on; further axes may follow."""

    def row(all_W: jax.Array, new_T: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(all_W, new_T, at, 0)

    return jax.vmap(row)(all_RW, new_RT, at_R)


def _pass(plan: Plan, params: tuple[Params, ...], pool: Pool) -> tuple[Pool, Shown]:
    """One pass through the model: the pool after it, and what is new, [R, 1 + ahead]."""
    rows, model = pool.rows, plan.model
    tokens_RT, caches = rows.token[:, None], pool.caches
    if plan.ahead:
        if plan.draft is None:
            guessed = looked_up(pool.texts, rows.place, plan.ahead)
        else:
            guessed, cache = _drafted(plan, params[1], pool)
            caches = (caches[0], cache)
        tokens_RT = jnp.concatenate([tokens_RT, guessed], axis=1)
    offsets = jnp.arange(tokens_RT.shape[1])
    x_RTD, cache = _next(model, params[0], tokens_RT, rows.place, rows.adapters, caches[0])
    token_RT, shown, ends_RT = _chosen(plan, model.next_logits(params[0], x_RTD), rows)
    # A token counts where all guesses before it are what the model chose, and none of these ended the row.
    right = (tokens_RT[:, 1:] == token_RT[:, :-1]) & ~ends_RT[:, :-1]
    counts_RT = jnp.cumprod(jnp.pad(right, ((0, 0), (1, 0)), constant_values=True), axis=1).astype(bool)
    counts_RT &= (rows.made[:, None] + offsets < rows.limit[:, None]) & ~rows.done[:, None]
    number = jnp.sum(counts_RT, axis=1, dtype=jnp.int32)
    last = jnp.take_along_axis(token_RT, jnp.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
    shown = shown._replace(tokens=jnp.where(counts_RT, shown.tokens, NOTHING))
    texts = pool.texts
    if plan.ahead and plan.draft is None:
        texts = _put(texts, token_RT, rows.place + 1)
    rows = rows._replace(
        token=jnp.where(number > 0, last, rows.token),
        place=rows.place + number,
        made=rows.made + number,
        done=rows.done | jnp.any(ends_RT & counts_RT, axis=1) | (rows.made + number >= rows.limit),
    )
    return Pool(rows, (cache, *caches[1:]), texts), shown


def _next(
    model: Transformer,
    params: Params,
    tokens_RT: jax.Array,
    place_R: jax.Array,
    adapters: Any,
    cache: tuple[Cache, ...],
) -> tuple[jax.Array, tuple[Cache, ...]]:
    """The hidden states of tokens from `place_R` on, and the cache with them."""
    at = place_R[:, None] + jnp.arange(tokens_RT.shape[1])
    seen = jnp.arange(cache[0][0].shape[1]) <= at[..., None]
    # Guesses may lie behind the last position that the model has: what becomes of them is not looked at.
    positions = jnp.minimum(at, model.spec.max_length - model.prefix_length - 1)
    return model.extend(params, Inputs(tokens_RT, positions, adapters=adapters), seen, cache, place_R)


def _chosen(plan: Plan, logits_RTV: jax.Array, rows: Rows) -> tuple[jax.Array, Shown, jax.Array]:
    """Of every position the token [R, T] that the model chooses, how it is shown, and whether it ends the row."""
    size, width, _ = logits_RTV.shape
    counts = (rows.made[:, None] + jnp.arange(width)).reshape(-1)
    logits = logits_RTV.reshape(size * width, -1)
    token = choose(logits, jnp.repeat(rows.keys, width), counts, plan.sampling)
    stops = functools.reduce(jnp.logical_or, [token == s for s in plan.stop_ids], jnp.zeros(token.shape, bool))
    most = jnp.max(logits, axis=-1)  # NaN where any is; a model may rule out tokens, but not all
    shown = jnp.where(jnp.isfinite(most), jnp.where(stops, ~token, token), NOT_FINITE)
    found = log_probabilities(logits, token, plan.sampling).reshape(size, width, 2) if plan.logprobs else None
    bits = support_bits(logits, plan.sampling).reshape(size, width, -1) if plan.support else None
    token, shown, ends = (a.reshape(size, width) for a in (token, shown, shown < 0))
    return token.astype(jnp.int32), Shown(shown.astype(jnp.int32), found, bits), ends


def looked_up(texts_RS: jax.Array, place_R: jax.Array, ahead: int) -> jax.Array:
    """int [R, ahead]: what came after the last of the earlier places where most of the text's last tokens (up to three, the
    last at `place_R`) stood; after the text's end, it goes on from there as it did."""
    slots = jnp.arange(texts_RS.shape[1])

    def row(text: jax.Array, place: jax.Array) -> jax.Array:
        alike, length = jnp.ones(text.shape, bool), jnp.zeros(text.shape, jnp.int32)
        for back in range(_GRAM):
            alike &= (jnp.roll(text, back) == text[jnp.maximum(place - back, 0)]) & (slots >= back) & (place >= back)
            length += alike
        length = jnp.where(slots < place, length, -1)
        best = jnp.argmax(length * slots.size + slots)
        return text[best + 1 + jnp.arange(ahead) % jnp.maximum(place - best, 1)]

    return jax.vmap(row)(texts_RS, place_R)


def _drafted(plan: Plan, params: Params, pool: Pool) -> tuple[jax.Array, tuple[Cache, ...]]:
    """int [R, ahead]: the tokens that the draft chooses, and its cache with all of them."""
    rows, draft = pool.rows, plan.draft
    assert draft is not None
    first = rows.place - plan.model.virtual_tokens

    def one(carry: tuple[jax.Array, tuple[Cache, ...]], i: jax.Array) -> tuple[Any, jax.Array]:
        token, cache = carry
        x_R1D, cache = _next(draft, params, token[:, None], first + i, None, cache)
        logits = draft.next_logits(params, x_R1D)[:, 0]
        token = choose(logits, rows.keys, rows.made + i, plan.sampling).astype(jnp.int32)
        return (token, cache), token

    # Once more than there are guesses: the last of them has to be in the cache, too, should it be kept.
    (_, cache), tokens = jax.lax.scan(one, (rows.token, pool.caches[1]), jnp.arange(plan.ahead + 1))
    return tokens[:-1].T, cache
