"""Rows for span corruption: spans are cut out of a text, and asked for after it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data import packing
from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.builders.prefix import with_prefix
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError

SENTINEL = "<extra_id_{}>"


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Builder):
    """Replaces spans by sentinels and learns what they stood for (Raffel et al. 2020, sections 3.1.4 and 3.3.4), in one
    row of a prefix language model (as UL2's decoder-only form, Tay et al. 2022): the corrupted text is the prefix; then
    come, and are learned, each sentinel with its span, and the end-of-text token, at which generation stops.

    Control tokens stay where they are, and no span reaches over one: those of the text, its end among them, are part of
    the prefix. The number of corrupted ids and of spans follows from the number of the others; their places are random.
    Among these, all ways to divide the corrupted ids among the spans, and the others among what is between them, are equally
    likely; they start with ids that stay and end with a span. A span that a control token would cut is two, for which two
    others with nothing else between them become one.

    Attributes:
      sentinels: ids of the sentinels, first to last.
      end_id: what the row ends with.
      density: share of ids that are corrupted.
      mean_span: mean length of a span.
      control: further ids of control tokens; those of the tokenizer that the sentinels are of.
    """

    sentinels: tuple[int, ...]
    end_id: int
    density: float = 0.15
    mean_span: float = 3.0
    control: tuple[int, ...] = dataclasses.field(default=(), repr=False, compare=False)

    kinds: ClassVar[tuple[str, ...]] = ("text", "tokens")
    partly: ClassVar[bool] = False
    random: ClassVar[bool] = True

    @classmethod
    def of(cls, objective: Any, tokenizer: Tokenizer) -> SpanCorruption:
        """The builder of `config.objective`, with the sentinels that the tokenizer has; `check` says whether they suffice."""
        return cls(
            tuple(sentinels(tokenizer)),
            tokenizer.end_id,
            objective.noise_density,
            objective.mean_span,
            tuple(sorted(tokenizer.special_ids)),
        )

    def counts(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of `n` ids that may be corrupted are, and in how many spans: at least one of each, and one id stays for
        each span, unless there is but one id."""
        n = np.asarray(n)
        noise = np.clip(np.rint(n * self.density).astype(n.dtype), 1, np.maximum(n - 1, 1))
        spans = np.clip(np.rint(noise / self.mean_span).astype(n.dtype), 1, np.maximum(np.minimum(noise, n - noise), 1))
        return noise, spans

    def slots(self, n: np.ndarray) -> np.ndarray:
        # Each span's sentinel is there twice, and an end is added; the last id is a target only. Of a piece with control
        # tokens fewer may be needed.
        return np.asarray(n) + 2 * self.counts(n)[1]

    def able(self, ids: np.ndarray, trained: np.ndarray | None) -> np.ndarray:
        del trained  # it learns whole texts
        return self._able[np.minimum(ids, len(self._able) - 1)]

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray | None:
        noise, spans = self.counts(able)
        # Of several short texts with control tokens between them, chance decides whether one of those that keep a span has
        # room for what another gives up.
        certain = (able >= n - 1) & (2 * noise <= able)
        return noise + spans + 1 if certain.all() else None  # the sentinels, and the end

    @functools.cached_property
    def _able(self) -> np.ndarray:
        """bool [id]: whether it may be corrupted; the last entry stands for all above."""
        control = [*self.control, *self.sentinels, self.end_id]
        able = np.ones(max(control) + 2, bool)
        able[control] = False
        return able

    def check(self, length: int) -> None:
        need = int(self.counts(np.asarray(packing.longest(self.slots, length)))[1])
        if need > len(self.sentinels):
            first, last = SENTINEL.format(0), SENTINEL.format(need - 1)
            raise UserError(
                f"config.objective.name = 'span_corruption': rows of {length} tokens need {need} sentinels, {first} to {last}, "
                f"and the tokenizer has {len(self.sentinels)} of them; add the missing: config.tokenizer.add="
                f"tuple(f'<extra_id_{{i}}>' for i in range({len(self.sentinels)}, {need}))"
            )

    def mask(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """bool [n]: of so many ids that may be corrupted, those that are."""
        if n < 2:
            return np.ones(n, bool)
        noise, spans = (int(x) for x in self.counts(np.asarray(n)))
        lengths = np.empty(2 * spans, np.int64)
        lengths[0::2], lengths[1::2] = _divided(n - noise, spans, rng), _divided(noise, spans, rng)
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator) -> Piece:
        ids = np.asarray(ids, np.int32)
        able = self.able(ids, trained)
        mask = np.zeros(len(ids), bool)
        mask[able] = self.mask(int(able.sum()), rng)
        _join(mask, able, int(self.counts(able.sum())[1]), rng)
        first = mask & ~np.concatenate([[False], mask[:-1]])
        sentinels = np.asarray(self.sentinels[: first.sum()], np.int32)
        inputs = ids.copy()
        inputs[first] = sentinels
        inputs = inputs[~mask | first]
        answer = np.insert(ids[mask], np.flatnonzero(first[mask]), sentinels)
        row = np.concatenate([inputs, answer, [self.end_id]]).astype(np.int32)
        learned = None if len(answer) else np.zeros(len(row), bool)  # there are but control tokens
        return with_prefix(row, learned, len(inputs))


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [spans] both: where spans start, and where they stop."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return edges[0::2], edges[1::2]


def _join(mask: np.ndarray, able: np.ndarray, most: int, rng: np.random.Generator) -> None:
    """Makes at most so many spans of those in `mask`, of the same ids in number where that can be.

    A span is moved to the one before it, as long as there are two without a control token between them. Then, where there are
    more texts than spans, that of one of the shortest texts is given up, and others become longer for it.
    """
    walls = np.cumsum(~able)  # which text a position is of
    lengths = np.bincount(walls, able)
    while len((edges := _edges(mask))[0]) > most:
        starts, stops = edges
        near = np.flatnonzero(walls[stops[:-1] - 1] == walls[starts[1:]])
        if len(near):
            k = rng.choice(near)
            between = np.arange(stops[k], stops[k + 1])
            mask[between] = between - stops[k] < stops[k + 1] - starts[k + 1]
        else:
            room = lengths[walls[starts]]
            k = rng.choice(np.flatnonzero(room == room.min()))
            mask[starts[k] : stops[k]] = False
            _grow(mask, able, stops[k] - starts[k], rng)


def _grow(mask: np.ndarray, able: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Adds so many ids to the spans of `mask`, as long as some are next to one."""
    for _ in range(count):
        beside = np.concatenate([mask[1:], [False]]) | np.concatenate([[False], mask[:-1]])
        free = np.flatnonzero(beside & able & ~mask)
        if not len(free):
            return
        mask[rng.choice(free)] = True


def _divided(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """int [parts], each at least 1, with sum `total`; each such division is equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def sentinels(tokenizer: Tokenizer) -> dict[int, str]:
    """Id -> text of the sentinels that the tokenizer has, first to last, up to the first that is missing."""
    names = itertools.takewhile(tokenizer.special.__contains__, map(SENTINEL.format, itertools.count()))
    return {tokenizer.special[name]: name for name in names}
