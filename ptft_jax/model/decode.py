"""Generation with a key/value cache: batched prompts of unequal length, sampled row by row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.config import field as fields
from ptft_jax.config import seeds
from ptft_jax.errors import UserError
from ptft_jax.model.attention import Cache
from ptft_jax.model.dot_product import Seen, Span
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Params, Transformer

_CHUNK = 16  # tokens between looks of the host (stop texts); also what prompt lengths are rounded up to


_SAMPLING = {
    "temperature": fields.temperature(1.0, "0 takes the likeliest token"),
    "top_k": fields.natural(0, "0 = all"),
    "top_p": fields.mass(1.0, "mass of the likeliest tokens"),
    "min_p": fields.share(0.0, "share of the likeliest token's probability", small=True),
}
_GENERATION = {
    "seed": fields.seed(0, "of the sampling"),
    "max_new_tokens": fields.positive(1, "tokens to add at most"),
}


def _check(name: str, field: fields.Field, value: Any) -> None:
    _, wrong = field.read(value.item() if isinstance(value, np.generic) else value)
    if wrong:
        raise UserError(f"{name}{wrong}")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Filters apply in this order, each on what the former left.

    Attributes:
      temperature: logits are divided by it; 0 takes the likeliest token.
      top_k: keep the k likeliest, of equally likely ones those of the lowest ids; 0 = all.
      top_p: keep the smallest set of likeliest tokens whose mass reaches p (Holtzman et al. 2020, section 3.1).
      min_p: keep tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024, section 3).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, field in _SAMPLING.items():
            _check(name, field, getattr(self, name))


class Generated(NamedTuple):
    """New token ids of one row, without the prompt and without what ended it; and why it ended."""

    ids: list[int]
    reason: str  # "end" a stop token, "stop" the host's cut, "length" max_new_tokens, "full" the model sees no more


class NotFinite(UserError):
    """The logits of the next token are not finite: whatever came of them would be no text of the model's."""


_END, _NOT_FINITE = -1, -2  # in place of a token: the row is over; it has no next token


def filtered(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits after temperature and filters; excluded tokens are -inf. Of equal logits the one of the lowest id is the likelier."""
    logits = logits_BV / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        # Before they are divided, which may make equal what is not.
        chosen = jax.lax.top_k(logits_BV, sampling.top_k)[1]
        keep = jnp.put_along_axis(jnp.zeros(logits.shape, bool), chosen, True, axis=-1, inplace=False)
        logits = jnp.where(keep, logits, -jnp.inf)
    if sampling.top_p < 1.0:
        order = jnp.argsort(-logits, axis=-1, stable=True)
        mass = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        keep = jnp.cumsum(mass, axis=-1) - mass < sampling.top_p  # the mass before a token; the first always stays
        rank = jnp.argsort(order, axis=-1)
        logits = jnp.where(jnp.take_along_axis(keep, rank, axis=-1), logits, -jnp.inf)
    if sampling.min_p > 0.0:
        probability = jax.nn.softmax(logits, axis=-1)
        floor = sampling.min_p * probability.max(axis=-1, keepdims=True)
        logits = jnp.where(probability < floor, -jnp.inf, logits)
    return logits


def _choose(logits_BV: jax.Array, keys_B: jax.Array, count: jax.Array, sampling: Sampling) -> jax.Array:
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, count))(keys_B)
    return jax.vmap(jax.random.categorical)(keys, filtered(logits_BV, sampling))


@functools.partial(jax.jit, static_argnames=("model", "slots", "prefix"))
def _prefill(
    model: Transformer,
    params: Params,
    tokens_BT: jax.Array,
    pad_B: jax.Array,
    adapters_B: jax.Array | None,
    slots: int,
    prefix: bool,
) -> tuple[jax.Array, Cache]:
    rows, length = tokens_BT.shape
    order = jnp.arange(length)
    positions_BT = jnp.maximum(order[None] - pad_B[:, None], 0)
    slot = jnp.arange(slots)
    if prefix:  # all of the prompt sees all of it, but what is learned before it (see Transformer.hidden)
        own_BT = order[None] >= pad_B[:, None] + model.virtual_tokens
        seen_BTS = Seen(prefix=(own_BT, own_BT)).allowed(Span(0, length), Span(0, length))
        seen_BTS = jnp.pad(seen_BTS, [(0, 0), (0, 0), (0, slots - length)])
    else:
        seen_BTS = slot[None, None] <= order[None, :, None]
    allowed_BTS = seen_BTS & (slot[None, None] >= pad_B[:, None, None])
    cache = model.empty_cache(rows, slots)
    inputs = Inputs(tokens_BT, positions_BT, adapters=adapters_B)
    return model.decode(params, inputs, allowed_BTS, cache, 0)


@functools.partial(jax.jit, static_argnames=("model", "sampling", "stop_ids", "steps"), donate_argnames=("cache",))
def _extend(
    model: Transformer,
    params: Params,
    logits_BV: jax.Array,
    cache: Cache,
    done_B: jax.Array,
    pad_B: jax.Array,
    keys_B: jax.Array,
    adapters_B: jax.Array | None,
    length: int | jax.Array,
    count: int | jax.Array,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
    steps: int,
) -> tuple[jax.Array, Cache, jax.Array, jax.Array]:
    slots = cache[0].shape[2]

    def one(carry: tuple[jax.Array, Cache, jax.Array], i: jax.Array) -> tuple[Any, jax.Array]:
        logits_BV, cache, done_B = carry
        token_B = _choose(logits_BV, keys_B, count + i, sampling)
        ends = functools.reduce(jnp.logical_or, [token_B == s for s in stop_ids], jnp.zeros_like(done_B))
        most_B = jnp.max(logits_BV, axis=-1)  # NaN where any is; a model may rule out tokens, but not all
        shown_B = jnp.where(jnp.isfinite(most_B), jnp.where(ends, _END, token_B), _NOT_FINITE)
        shown_B = jnp.where(done_B, _END, shown_B)
        at = length + count + i
        slot = jnp.arange(slots)
        allowed_BTS = ((slot[None] <= at) & (slot[None] >= pad_B[:, None]))[:, None]
        inputs = Inputs(token_B[:, None], (at - pad_B)[:, None], adapters=adapters_B)
        logits_BV, cache = model.decode(params, inputs, allowed_BTS, cache, at)
        return (logits_BV, cache, done_B | ends), shown_B

    (logits_BV, cache, done_B), tokens = jax.lax.scan(one, (logits_BV, cache, done_B), jnp.arange(steps))
    return logits_BV, cache, done_B, tokens.T


def generate(
    model: Transformer,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    fit: bool = False,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    prefix: bool = False,
    adapters: Sequence[int] | None = None,
    cut: Callable[[int, list[int]], int | None] | None = None,
    on_tokens: Callable[[int, list[int]], None] | None = None,
    check: Callable[[], None] | None = None,
) -> list[Generated]:
    """Continues every prompt. A row's result does not depend on the other rows, nor on the padding they cause, but where it is
    sampled on its number: the noise of a row follows from the seed and that, so equal prompts are continued in different ways.

    Args:
      prompts: token ids, each at least one.
      max_new_tokens: the upper limit on new tokens per row.
      fit: a row that has room for fewer gets as many as it has room for, at least one, and ends as "full"; else it is refused.
      stop_ids: tokens that end a row (not returned).
      prefix: the model reads a prompt in both directions (prefix LM).
      adapters: which adapter each row has, in a model with several.
      cut: looks at (row, new ids so far) every few tokens and returns how many to keep if the row is over, else None.
      on_tokens: called with (row, ids so far) after each look, for printing while generating.
      check: called every few tokens; may raise to end it.

    Raises:
      UserError: an empty prompt, or one that with its continuation exceeds the model's `max_length`; a number that is none.
      NotFinite: see there.
    """
    for name, value in (("seed", seed), ("max_new_tokens", max_new_tokens)):
        _check(name, _GENERATION[name], value)
    check_room(model, prompts, 1 if fit else max_new_tokens)
    wanted, limits = max_new_tokens, [min(max_new_tokens, model.max_tokens - len(prompt)) for prompt in prompts]
    max_new_tokens = max(limits)
    tokens, pad_B = _laid_out(model, prompts)
    length = tokens.shape[1]
    slots = length + -(-max_new_tokens // _CHUNK) * _CHUNK
    key = seeds.key(seed)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(prompts)))
    adapters_B = None if adapters is None else jnp.asarray(adapters, jnp.int32)
    logits, cache = _prefill(model, params, jnp.asarray(tokens), pad_B, adapters_B, slots, prefix)
    written = _Written(limits, wanted, cut, on_tokens)
    for count in range(0, max_new_tokens, _CHUNK):
        if check is not None:
            check()
        steps, done_B = min(_CHUNK, max_new_tokens - count), jnp.asarray(written.done)
        rows = done_B, pad_B, keys_B, adapters_B
        logits, cache, _, new = _extend(
            model, params, logits, cache, *rows, length, count, sampling, tuple(stop_ids), steps
        )
        written.add(np.asarray(new).tolist())
        if written.done.all():
            break
    return written.rows()


def check_writes(model: Transformer) -> None:
    """Raises UserError for a model that cannot write, whatever it reads."""
    if model.spec.head != "lm" or not model.spec.causal:
        raise UserError(
            "the model predicts no next token (it is bidirectional, or has a head for classes): it cannot write"
        )


def check_room(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raises UserError where `generate` could not write so many tokens after these prompts."""
    check_writes(model)
    longest, most = max(map(len, prompts)), model.spec.max_length
    if not min(map(len, prompts)):
        raise UserError(f"prompt {[len(p) for p in prompts].index(0)} is empty: give at least one token")
    taken, room = most - model.max_tokens, model.max_tokens - longest
    if max_new_tokens > room:
        before = f" and starts with {taken} learned vectors" if taken else ""
        raise UserError(
            f"the model sees at most {most} tokens{before}: a prompt of {longest} leaves room for {max(room, 0)} new "
            f"ones, not {max_new_tokens}"
        )


def _laid_out(model: Transformer, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, jax.Array]:
    """Prompts behind the ids of learned vectors, at the right of rows of one length; and how much is left before each."""
    first = range(model.spec.vocab_size, model.spec.vocab_size + model.virtual_tokens)
    prompts = [[*first, *prompt] for prompt in prompts]
    length = -(-max(map(len, prompts)) // _CHUNK) * _CHUNK
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens, prompts):
        row[length - len(prompt) :] = prompt
    return tokens, jnp.asarray([length - len(prompt) for prompt in prompts])


class _Written:
    """What the rows say so far, and which are over (`done`, bool [B])."""

    def __init__(
        self,
        limits: Sequence[int],
        wanted: int,
        cut: Callable[[int, list[int]], int | None] | None,
        on_tokens: Callable[[int, list[int]], None] | None,
    ):
        """`limits`: how many new ids each row has at most; `wanted`: how many were asked for."""
        self.ids: list[list[int]] = [[] for _ in limits]
        self.reasons, self.done = ["full" if n < wanted else "length" for n in limits], np.zeros(len(limits), bool)
        self.limits, self.cut, self.on_tokens = limits, cut, on_tokens

    def add(self, new: list[list[int]]) -> None:
        """Adds new ids of every row; `_END` marks what ended it. Raises NotFinite."""
        for row, ids in enumerate(new):
            if self.done[row]:
                continue
            ids = ids[: self.limits[row] - len(self.ids[row])]
            end = ids.index(_END) if _END in ids else len(ids)
            if _NOT_FINITE in ids[:end]:
                raise NotFinite(
                    f"the logits of row {row} are not finite (NaN or infinity): no next token follows from them"
                )
            self.ids[row] += ids[:end]
            keep = self.cut(row, self.ids[row]) if self.cut else None
            if keep is not None:
                self.ids[row], self.reasons[row], self.done[row] = self.ids[row][:keep], "stop", True
            elif end < len(ids):
                self.reasons[row], self.done[row] = "end", True
            elif len(self.ids[row]) == self.limits[row]:
                self.done[row] = True
            if self.on_tokens:
                self.on_tokens(row, self.ids[row])

    def rows(self) -> list[Generated]:
        return [Generated(ids, reason) for ids, reason in zip(self.ids, self.reasons)]
