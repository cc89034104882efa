"""Rows for masked language models: some tokens are hidden, and only those are learned."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.builders import words
from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError, listed

MASKS = ("[MASK]", "<mask>", "<|mask|>")


@dataclasses.dataclass(frozen=True)
class Masked(Builder):
    """Hides tokens and asks for them (Devlin et al. 2018, section 3.1), again each time a piece is built (Liu et al.
    2019, section 4.1).

    Of the tokens that may be chosen, `rate` are, rounded as BERT's published code does and at least one, so that pieces of a
    length weigh alike. Control tokens and what is not trained are never chosen. Each chosen token becomes the mask, a
    random ordinary token (never a control token), or stays, independently.

    Whole words are chosen as BERT's published code does: in random order, passing over each that would exceed the count. So
    no word overruns it, and what is missing at the end is less than the shortest word that is left. Where no word fits,
    tokens are chosen one by one.

    Attributes:
      mask_id: the mask token.
      marks: which ids are control tokens, see `words.marks`.
      rate: share of tokens that are chosen.
      mask_share, random_share: of the chosen, those that become the mask, and a random token.
      whole_words: all tokens of a word are chosen together; `marks` then need the texts of tokens.
    """

    mask_id: int
    marks: bytes = dataclasses.field(repr=False)
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False

    kinds: ClassVar[tuple[str, ...]] = ("text", "answers", "tokens")
    random: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True
    aligned: ClassVar[bool] = True

    @classmethod
    def of(cls, objective: Any, tokenizer: Tokenizer) -> Masked:
        """The builder of `config.objective`. Raises UserError for no mask token, or shares that exceed 1 together."""
        mask_share, random_share = objective.mask_token_share, objective.random_token_share
        if mask_share + random_share > 1 + 1e-9:
            raise UserError(
                f"config.objective.random_token_share = {random_share!r}: with mask_token_share {mask_share!r} more than all "
                "of the chosen tokens"
            )
        return cls(
            mask_id(tokenizer),
            words.marks(tokenizer, objective.whole_word),
            objective.mask_rate,
            mask_share,
            random_share,
            objective.whole_word,
        )

    def slots(self, n: np.ndarray) -> np.ndarray:
        return np.asarray(n)

    @functools.cached_property
    def _ordinary(self) -> np.ndarray:
        """The ids that are no control tokens."""
        return np.flatnonzero(~words.special(self.marks)).astype(np.int32)

    def able(self, ids: np.ndarray, trained: np.ndarray | None) -> np.ndarray:
        able = ~words.special(self.marks)[ids]
        return able if trained is None else able & trained

    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray | None:
        return None if self.whole_words else self._count(able)

    def _count(self, able: np.ndarray) -> np.ndarray:
        """How many of so many tokens are chosen; int64 [...] to int64 [...]."""
        return np.maximum(np.rint(self.rate * able).astype(np.int64), np.minimum(able, 1))

    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator) -> Piece:
        ids = np.asarray(ids, np.int32)
        chosen = self._chosen(ids, np.flatnonzero(self.able(ids, trained)), rng)
        fate = rng.random(len(chosen))
        tokens = ids.copy()
        tokens[chosen[fate < self.mask_share]] = self.mask_id
        swapped = chosen[(fate >= self.mask_share) & (fate < self.mask_share + self.random_share)]
        tokens[swapped] = rng.choice(self._ordinary, len(swapped))
        weights = np.zeros(len(ids), np.float32)
        weights[chosen] = 1.0
        return {"inputs": tokens, "targets": ids, "weights": weights}

    def _chosen(self, ids: np.ndarray, able: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions, some of `able`."""
        if not len(able):
            return able
        count = int(self._count(np.int64(len(able))))
        if self.whole_words and len(found := self._whole(ids, able, count, rng)):
            return found
        return rng.choice(able, count, replace=False)

    def _whole(self, ids: np.ndarray, able: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Positions of whole words, at most `count`."""
        firsts = np.flatnonzero(np.diff(np.cumsum(words.starts(self.marks, ids))[able], prepend=-1))
        sizes = np.diff(firsts, append=len(able))
        chosen = np.zeros(len(sizes), bool)
        order = rng.permutation(len(sizes))
        for word, size in zip(order.tolist(), sizes[order].tolist()):
            if size <= count:
                chosen[word] = True
                count -= size
            if not count:
                break
        return able[np.repeat(chosen, sizes)]


def mask_id(tokenizer: Tokenizer) -> int:
    """The tokenizer's mask token: the one it names, else a control token that is spelled like one.

    Raises:
      UserError: there is none.
    """
    for text in (tokenizer.named.get("mask_token"), *MASKS):
        if text in tokenizer.special:
            return tokenizer.special[text]
    raise UserError(
        f"config.objective.name = 'masked_lm': the tokenizer {tokenizer.origin} has no mask token; add one: "
        f"config.tokenizer.add=({MASKS[0]!r},). Its control tokens:{listed(sorted(tokenizer.special) or ['none'])}"
    )
