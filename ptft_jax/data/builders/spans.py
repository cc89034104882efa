"""Rows for span corruption: spans are cut out of a text, and asked for after it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data import packing
from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.builders.prefix import with_prefix
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError
from ptft_jax.pairing import NEEDS

SENTINEL = "<extra_id_{}>"


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Builder):
    """Replaces spans by sentinels and learns what they stood for (Raffel et al. 2020, sections 3.1.4 and 3.3.4), in one
    row of a prefix language model (as UL2's decoder-only form, Tay et al. 2022): the corrupted text is the prefix; then
    come, and are learned, each sentinel with its span, and the end-of-text token, at which generation stops.

    The number of corrupted ids and of spans follows from the length of a piece; their places are random. All ways to divide
    the corrupted ids among the spans, and the others among what is between them, are equally likely; a piece starts with
    ids that stay and ends with a span.

    Attributes:
      sentinels: ids of the sentinels, first to last.
      end_id: what the row ends with.
      density: share of ids that are corrupted.
      mean_span: mean length of a span.
    """

    sentinels: tuple[int, ...]
    end_id: int
    density: float = 0.15
    mean_span: float = 3.0

    kinds: ClassVar[tuple[str, ...]] = NEEDS["span_corruption"].kinds
    partly: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def counts(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of `n` ids are corrupted, and in how many spans: at least one of each, and one id stays for each span."""
        n = np.asarray(n)
        noise = np.clip(np.rint(n * self.density).astype(n.dtype), 1, n - 1)
        spans = np.clip(np.rint(noise / self.mean_span).astype(n.dtype), 1, np.minimum(noise, n - noise))
        return noise, spans

    def slots(self, n: np.ndarray) -> np.ndarray:
        # Each span's sentinel is there twice, and an end is added; the last id is a target only.
        return np.asarray(n) + 2 * self.counts(n)[1]

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
        """bool [n]: the ids that are corrupted."""
        noise, spans = (int(x) for x in self.counts(np.asarray(n)))
        lengths = np.empty(2 * spans, np.int64)
        lengths[0::2], lengths[1::2] = _divided(n - noise, spans, rng), _divided(noise, spans, rng)
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator) -> Piece:
        ids = np.asarray(ids, np.int32)
        mask = self.mask(len(ids), rng)
        first = mask & ~np.concatenate([[False], mask[:-1]])
        sentinels = np.asarray(self.sentinels[: first.sum()], np.int32)
        inputs = ids.copy()
        inputs[first] = sentinels
        inputs = inputs[~mask | first]
        answer = np.insert(ids[mask], np.flatnonzero(first[mask]), sentinels)
        return with_prefix(np.concatenate([inputs, answer, [self.end_id]]).astype(np.int32), None, len(inputs))


def _divided(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """int [parts], each at least 1, with sum `total`; each such division is equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def sentinels(tokenizer: Tokenizer) -> dict[int, str]:
    """Id -> text of the sentinels that the tokenizer has, first to last, up to the first that is missing."""
    names = itertools.takewhile(tokenizer.special.__contains__, map(SENTINEL.format, itertools.count()))
    return {tokenizer.special[name]: name for name in names}


def build(objective: Any, tokenizer: Tokenizer) -> SpanCorruption:
    """The builder of `config.objective`, with the sentinels that the tokenizer has; `check` says whether they suffice."""
    return SpanCorruption(tuple(sentinels(tokenizer)), tokenizer.end_id, objective.noise_density, objective.mean_span)
