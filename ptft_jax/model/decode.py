"""Generation with a key/value cache: prompts of unequal length, sampled row by row, as many at a time as there are places."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ptft_jax.config import field as fields
from ptft_jax.config import seeds
from ptft_jax.errors import UserError
from ptft_jax.model import pool
from ptft_jax.model.pool import NOT_FINITE, NOTHING, Plan, Pool, Rows, Shown
from ptft_jax.model.sampling import Sampling, check, filtered
from ptft_jax.model.stacks import apart, consecutive
from ptft_jax.model.transformer import Params, Transformer
from ptft_jax.model.turned import each_turned

__all__ = [
    "Generated",
    "Guesses",
    "NotFinite",
    "Sampling",
    "check_guesses",
    "check_room",
    "check_writes",
    "filtered",
    "generate",
]

PLAIN = Sampling()  # how tokens are chosen, where nothing else is asked for
PLACES = 64  # rows at a time, likewise
AHEAD = 4  # guesses of a draft, likewise
_ROOM = 256  # new tokens that a cache has room for at first; it grows where rows go on
_GENERATION = {
    "seed": fields.seed(0, "of the sampling"),
    "max_new_tokens": fields.positive(1, "tokens to add at most"),
    "places": fields.positive(1, "rows at a time at most"),
    "ahead": fields.positive(1, "guesses for each pass through the model"),
}


class Generated(NamedTuple):
    """New token ids of one row, without the prompt and without what ended it; and why it ended.

    Attributes:
      reason: "end" a stop token, "stop" the host's cut, "length" max_new_tokens, "full" the model sees no more.
      end: the stop token that ended it, else None.
      logprobs: where they are asked for, of each id, and of `end` where there is one, the logarithm of its probability by the
        model; `drawn`: likewise of the probability with which it was drawn, after temperature and filters.
      support: where it is asked for, of each of the same the tokens that could have been drawn there (`sampling.support_bits`), uint8
        [tokens, V / 8].
    """

    ids: list[int]
    reason: str
    end: int | None = None
    logprobs: list[float] | None = None
    drawn: list[float] | None = None
    support: np.ndarray | None = None


class NotFinite(UserError):
    """The logits of the next token are not finite: whatever came of them would be no text of the model's."""


@dataclasses.dataclass(frozen=True)
class Guesses:
    """Speculative decoding: tokens are guessed ahead and looked at in one pass. It changes how long a text takes, and no token of
    it; see `ptft_jax.model.pool.Plan`.

    Attributes:
      ahead: guesses for each pass.
      draft: a smaller model of the same vocabulary that makes them, and its parameters; None: what followed the text's last
        tokens where they stood before.
    """

    ahead: int = AHEAD
    draft: tuple[Transformer, Params] | None = None


def generate(
    model: Transformer,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    fit: bool = False,
    sampling: Sampling = PLAIN,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    prefix: bool = False,
    adapters: Sequence[int] | None = None,
    places: int = PLACES,
    guesses: Guesses | None = None,
    logprobs: bool = False,
    support: bool = False,
    cut: Callable[[int, list[int]], int | None] | None = None,
    on_tokens: Callable[[int, list[int]], None] | None = None,
    check: Callable[[], None] | None = None,
    most: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    images: Sequence[np.ndarray] | None = None,
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
      places: so many rows at a time at most; where one ends, the next prompt takes its place.
      guesses: speculative decoding; None = none.
      logprobs: whether to say with which probabilities tokens came.
      support: whether to say which tokens could have come; at a temperature above 0.
      cut: looks at (row, new ids so far) every few tokens and returns how many to keep if the row is over, else None.
      on_tokens: called with (row, ids so far) after each look, for printing while generating.
      check: called every few tokens; may raise to end it.
      most: of each row, in the place of max_new_tokens where it is less.
      images: of each row, uint8 [size, size, channels] as the model's tower reads it, for the positions of its prompt that are
        `ptft_jax.model.spec.IMAGE`; None = rows have none.
      numbers: of rows, from which their noise follows; by default their places.

    Raises:
      UserError: an empty prompt, or one that with its continuation exceeds the model's `max_length`; a number that is none;
        a draft that does not go with the model.
      NotFinite: see there.
    """
    _check_numbers(seed=seed, max_new_tokens=max_new_tokens, places=places)
    wanted = [max_new_tokens] * len(prompts) if most is None else [min(n, max_new_tokens) for n in most]
    if most is None or fit:
        check_room(model, prompts, 1 if fit else max_new_tokens)
    else:
        for prompt, room in zip(prompts, wanted):
            check_room(model, [prompt], room)
    if guesses is not None:
        check_guesses(model, guesses)
        if images is not None and guesses.draft is not None:
            raise UserError("the draft sees no images: leave out --draft, or guess by --lookup")
    draft = None if guesses is None or guesses.draft is None else guesses.draft
    ahead = 0 if guesses is None else guesses.ahead
    plan = Plan(model, sampling, tuple(stop_ids), prefix, logprobs, ahead, draft and draft[0], support)
    limits = [min(room, model.max_tokens - len(prompt)) for room, prompt in zip(wanted, prompts)]
    written = _Written(limits, wanted, cut, on_tokens)
    running = _Running(plan, (params,) if draft is None else (params, draft[1]), prompts, limits, places, images)
    running.start(seed, range(len(prompts)) if numbers is None else numbers, adapters)
    while not written.done.all():
        if check is not None:
            check()
        for row, new in running.go_on(written.done).items():
            written.add(row, new)
    return written.rows()


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        check(name, _GENERATION[name], value)


def check_guesses(model: Transformer, guesses: Guesses) -> None:
    """Raises UserError where these guesses cannot be made for the model."""
    _check_numbers(ahead=guesses.ahead)
    for one in (model, *(guesses.draft or ())[:1]):
        kind = dict(one.spec.rope_scaling).get("kind")
        if kind in ("dynamic", "longrope"):
            raise UserError(
                f"model.rope_scaling of kind {kind!r} turns with the length of the text, which several tokens at once do not "
                f"have: no tokens can be guessed ahead (neither by a draft nor by looking them up)"
            )
    if guesses.draft is None:
        return
    draft = guesses.draft[0]
    check_writes(draft)
    if draft.spec.vocab_size != model.spec.vocab_size:
        raise UserError(
            f"the draft has a vocabulary of {draft.spec.vocab_size} tokens, and the model one of {model.spec.vocab_size}: what "
            "one guesses means nothing to the other; choose a draft with the same tokenizer"
        )
    if draft.several or draft.virtual_tokens:
        what = "several adapters" if draft.several else "a learned prompt"
        raise UserError(f"the draft has {what}: choose one without")


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


class _Token(NamedTuple):
    """A token as `pool.Shown` has it, and its two log-probabilities and its support where they are asked for."""

    shown: int
    logprobs: tuple[float, float] | None
    support: np.ndarray | None


def _tokens(shown: Shown) -> list[list[_Token]]:
    """What is there of each row."""
    tokens = np.asarray(shown.tokens)
    found = None if shown.logprobs is None else np.asarray(shown.logprobs)
    bits = None if shown.support is None else np.asarray(shown.support)
    return [
        [
            _Token(
                int(token),
                None if found is None else (float(found[row, i, 0]), float(found[row, i, 1])),
                None if bits is None else bits[row, i],
            )
            for i, token in enumerate(tokens[row, : np.argmax([*(tokens[row] == NOTHING), True])])
        ]
        for row in range(len(tokens))
    ]


def _ints(values: Sequence[int]) -> Any:
    """An array of the host: one that JAX makes is a program of its own, which takes longer to compile."""
    return np.asarray(values, np.int32)


def laid_out(params: Params, consume: bool = False) -> Params:
    """Apart by layers (`apart`) where there is memory for it, that of a host. An accelerator may be full of what a run has: there
    a layer is a slice of the stacks, unless the caller gives these up (`consume`). On one CPU kernels are turned (`ptft_jax.model.turned`)."""
    leaf = jax.tree.leaves(params)[0]
    devices = leaf.devices() if isinstance(leaf, jax.Array) else ()
    if not consume and any(device.platform != "cpu" for device in devices):
        return params
    turn = [device.platform for device in devices] == ["cpu"]
    if consume:
        return _by_layer(params, turn, consume)
    moved = {name: value for name, value in params.items() if name == "blocks" or (name == "head" and turn)}
    form: Any = jax.tree.structure(_copied.eval_shape(moved, turn=turn))
    if form == jax.tree.structure(moved):  # it is laid out already
        return params
    return {**params, **_copied(moved, turn=turn)}


@functools.partial(jax.jit, static_argnames="turn")
def _copied(params: Params, turn: bool) -> Params:
    return _by_layer(params, turn)


def _by_layer(params: Params, turn: bool, consume: bool = False) -> Params:
    layers = apart(params, consume)
    if not turn:
        return layers
    rest = {name: value for name, value in layers.items() if name != "blocks"}
    waiting = list(reversed(consecutive(layers["blocks"])))
    del layers
    return each_turned(rest, waiting, consume)


class _Running:
    """Prompts on their way through the places of a pool."""

    def __init__(
        self,
        plan: Plan,
        params: tuple[Params, ...],
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        places: int,
        images: Sequence[np.ndarray] | None = None,
    ):
        model, self._images = plan.model, images
        first = range(model.spec.vocab_size, model.spec.vocab_size + model.virtual_tokens)
        self._prompts, self._limits = [[*first, *prompt] for prompt in prompts], limits
        self._plan, self._params = plan, tuple(map(laid_out, params))
        self._waiting = collections.deque(range(len(prompts)))
        self._at: list[int | None] = [None] * min(places, len(prompts))  # the prompt in each place
        self._lengths = [0] * len(prompts)  # of each row so far, a bound
        self._pool: Pool | None = None

    def start(self, seed: int, numbers: Sequence[int], adapters: Sequence[int] | None) -> None:
        """The noise of rows, and which adapter each has."""
        self._key, self._numbers = seeds.key(seed), np.asarray(numbers, np.int32)
        self._adapters = None if adapters is None else np.asarray(adapters, np.int32)

    def go_on(self, done: np.ndarray) -> dict[int, list[_Token]]:
        """What is new of which rows, after prompts have taken the places of those that are over (`done`, bool [prompts])."""
        free = [place for place, row in enumerate(self._at) if row is None or done[row]]
        for place in free:
            self._at[place] = None
        parts = [self._admitted(free)] if free and self._waiting else []
        if any(row is not None and self._limits[row] > 1 for row in self._at):
            parts.append(self._advanced())
        new: dict[int, list[_Token]] = {}
        for rows, shown in parts:  # read when all is on its way
            for row, tokens in zip(rows, _tokens(shown)):
                if row is not None:
                    new[row] = new.get(row, []) + tokens
        return new

    def _admitted(self, free: Sequence[int]) -> tuple[list[int | None], Shown]:
        rows = [self._waiting.popleft() for _ in free[: len(self._waiting)]]
        for place, row in zip(free, rows):
            self._at[place], self._lengths[row] = row, len(self._prompts[row]) + 1
        length = rounded(max(len(self._prompts[row]) for row in rows))
        pool_ = self._with_room(length)
        many = 1  # of few sizes: each is compiled
        while many < len(rows):
            many = min(4 * many, len(self._at))
        tokens = np.zeros((many, length), np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(self._prompts[row])] = self._prompts[row]
        own = rows + rows[:1] * (many - len(rows))
        numbers = np.asarray(own)
        fresh = Rows(
            token=_ints([0] * many),
            place=_ints([len(self._prompts[row]) - 1 for row in own]),
            made=_ints([0] * many),
            limit=_ints([self._limits[row] for row in own]),
            keys=pool.noise(self._key, self._numbers[numbers]),
            adapters=None if self._adapters is None else self._adapters[numbers],
            done=_ints([0] * many).astype(bool),
        )
        places = np.full((many,), len(self._at), np.int32)
        places[: len(rows)] = free[: len(rows)]
        seen = None if self._images is None else np.stack([self._images[row] for row in own])
        self._pool, shown = pool.admit(self._plan, self._params, pool_, tokens, fresh, places, seen)
        return [*rows, *[None] * (many - len(rows))], shown

    def _advanced(self) -> tuple[list[int | None], Shown]:
        most = pool.STEPS * (1 + self._plan.ahead)
        for row in (row for row in self._at if row is not None):
            total = len(self._prompts[row]) + self._limits[row]
            self._lengths[row] = min(self._lengths[row] + most, total)
        pool_ = self._with_room(0)
        over = np.asarray([row is None for row in self._at])
        self._pool, shown = pool.advance(self._plan, self._params, pool_, over)
        return list(self._at), shown

    def _with_room(self, length: int) -> Pool:
        """The pool with slots for what comes next, and for prompts padded to `length`."""
        spare = 2 + self._plan.ahead  # what is guessed behind a row's end has slots, too
        active = [row for row in self._at if row is not None]
        ends = [len(self._prompts[row]) + self._limits[row] for row in active]
        needed = max(length, max(self._lengths[row] for row in active) + spare)
        if self._pool is None:
            first = max(min(end, len(self._prompts[row]) + _ROOM) for row, end in zip(active, ends))
            slots = rounded(max(needed, first + spare))
            self._pool = pool.empty(self._plan, len(self._at), slots, self._adapters is not None, self._key)
        elif needed > self._pool.texts.shape[1]:
            most = rounded(max(length, max(ends) + spare))
            slots = min(rounded(max(needed, 2 * self._pool.texts.shape[1])), max(most, rounded(needed)))
            self._pool = pool.grown(self._pool, slots)
        return self._pool


def rounded(length: int) -> int:
    """The least of 16, 32, 48, 64, 96, 128, 192, ... (powers of two, and half as much again) that is not below `length`: each
    length that a program meets is compiled, so there are few."""
    size = 16
    while size < length:
        size *= 2
    half = size // 4 * 3
    return half if size > 32 and half >= length else size


class _Written:
    """What the rows say so far, and which are over (`done`, bool [B])."""

    def __init__(
        self,
        limits: Sequence[int],
        wanted: Sequence[int],
        cut: Callable[[int, list[int]], int | None] | None,
        on_tokens: Callable[[int, list[int]], None] | None,
    ):
        """`limits`: how many new ids each row has at most; `wanted`: how many of each were asked for."""
        self.ids: list[list[int]] = [[] for _ in limits]
        self.reasons, self.done = (
            ["full" if n < w else "length" for n, w in zip(limits, wanted)],
            np.zeros(len(limits), bool),
        )
        self.ends: list[int | None] = [None] * len(limits)
        self.found: list[list[_Token]] = [[] for _ in limits]
        self.limits, self.cut, self.on_tokens = limits, cut, on_tokens

    def add(self, row: int, new: Sequence[_Token]) -> None:
        """Adds what is new of a row. Raises NotFinite."""
        if any(token.shown == NOT_FINITE for token in new):
            raise NotFinite(
                f"the logits of row {row} are not finite (NaN or infinity): no next token follows from them"
            )
        self.found[row] += new
        end = ~new[-1].shown if new and new[-1].shown < 0 else None
        self.ids[row] += [token.shown for token in new[: len(new) - (end is not None)]]
        keep = self.cut(row, self.ids[row]) if self.cut else None
        if keep is not None:
            self.ids[row], self.reasons[row], self.done[row] = self.ids[row][:keep], "stop", True
        elif end is not None:
            self.reasons[row], self.done[row], self.ends[row] = "end", True, end
        elif len(self.ids[row]) == self.limits[row]:
            self.done[row] = True
        if self.on_tokens:
            self.on_tokens(row, self.ids[row])

    def rows(self) -> list[Generated]:
        """Each row's result."""
        made = []
        for ids, reason, end, found in zip(self.ids, self.reasons, self.ends, self.found):
            tokens = found[: len(ids) + (end is not None)]
            kept = [token.logprobs for token in tokens if token.logprobs is not None]
            model, drawn = ([pair[i] for pair in kept] for i in range(2)) if kept else (None, None)
            bits = [token.support for token in tokens if token.support is not None]
            made.append(Generated(ids, reason, end, model, drawn, np.stack(bits) if bits else None))
        return made
