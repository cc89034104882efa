"""What turns a run of token ids into the arrays of a row: one builder for each objective."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

# Name -> array of one value a position: inputs, targets int32; weights float32; and where the objective has one,
# prefix bool, types int32 (of tokens). A row is made of pieces laid one after the other; positions, segments and padding are the row's.
Piece = dict[str, np.ndarray]


class Builder(abc.ABC):
    """Builds pieces. Subclasses are frozen dataclasses: hashable, cheap to pickle, without arrays of their own.

    Attributes:
      kinds: kinds of data that it makes rows of (`ptft_jax.data.formats.Format.kind`).
      overlap: how many ids a piece shares with the one that continues it, so that every id is learned once.
      random: whether `piece` draws random numbers. Pieces are then new each time they are built.
      looks_ahead: whether a position attends to all that come after it in the row, so that padding and other pieces have to
        be segments of their own, in rows of a single piece too.
      labelled: whether a row is one piece with a class: besides the piece's arrays, which then have no targets and weights
        of their own, the row has `targets`, int32 [] its class, and `weights`, float32 [].
      last: of a labelled row, whether its class is read off the last position, and not the first.
      scored: whether each sequence of a row is scored at its last position, and positions have no targets.
      paired: whether the two sequences of an example, of which the first is better, lie in one row, and rows say how many pairs they
        hold: `pairs`, float32 [P], 1 for each there is. A pair's sequences are segments of their own: 1 and 2, 3 and 4, ...
      sampled: whether what is trained on is written by the model to the prompts of the rows, of which each holds one record.
      rated: of one that pairs, whether an example is one sequence with a label, and its pair is made of it and another's
        (`ptft_jax.data.mismatched`).
      judged: whether each example has a label, and rows say of each target whether its example is good: `good`, bool [T].
      matched: whether a row is one question and what belongs to it, which are compared with those of other rows: `question`, bool [T], says
        which tokens are the question's, and `weights`, float32 [], are the row's.
      stepped: whether some tokens of an answer end a step, each with a label: `right`, bool [T]; positions have no targets.
      partly: whether it learns some tokens of a text and not others, where the data say which.
      pictured: whether its pieces are images (`ptft_jax.data.builders.pictures`), each a row.
      neighbors: what finds passages for the chunks of rows, `neighbors` int32 [U, k, n] of each (`ptft_jax.retrieval.chunks`); None = nothing.
      aligned: whether a target stands at the position of the token it replaces; else one before it.
    """

    kinds: ClassVar[tuple[str, ...]]
    overlap: ClassVar[int] = 0
    random: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    numeric: ClassVar[bool] = False
    last: bool = False
    scored: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    sampled: ClassVar[bool] = False
    rated: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    stepped: ClassVar[bool] = False
    matched: ClassVar[bool] = False
    partly: ClassVar[bool] = True
    aligned: ClassVar[bool] = False
    pictured: ClassVar[bool] = False
    neighbors: Any = None

    @classmethod
    def of(cls, objective: Any, tokenizer: Any) -> Builder:
        """The builder of `config.objective`, which reads only the settings that matter to it.

        Raises:
          UserError: the tokenizer lacks a token that is needed, or settings that contradict each other.
        """
        del objective, tokenizer  # most need neither
        return cls()

    def read_by(self, causal: bool) -> Builder:
        """The builder of rows for a model that is causal, or not; most make the same for both."""
        del causal
        return self

    @property
    def plain(self) -> Builder:
        """The builder of rows that are measured: the same, but for what only training varies."""
        return self

    @classmethod
    def last_tokens(cls, tokenizer: Any) -> tuple[int, ...]:
        """The control tokens that a text of its rows ends with."""
        return (tokenizer.end_id,)

    @abc.abstractmethod
    def slots(self, n: np.ndarray) -> np.ndarray:
        """How many positions of a row pieces of `n` ids take; int [...] to int [...], never decreasing in n."""

    def check(self, length: int) -> None:
        """Raises UserError where pieces that fill a row of `length` positions need tokens that the vocabulary lacks."""
        del length  # most need none

    def able(self, ids: np.ndarray, trained: np.ndarray | None) -> np.ndarray | None:
        """bool [n]: of the ids of a text those that may be learned; None = all."""
        del ids
        return trained

    @abc.abstractmethod
    def learned(self, n: np.ndarray, able: np.ndarray, marked: bool) -> np.ndarray | None:
        """int64 [pieces]: the sum of the weights of pieces; None where chance decides it.

        Args:
          n: int64 [pieces], their ids.
          able: int64 [pieces], how many of them may be learned (`able`), without a first one that is a target of nothing.
          marked: whether the data say which ids are to be learned.
        """

    @abc.abstractmethod
    def piece(self, ids: np.ndarray, trained: np.ndarray | None, rng: np.random.Generator | None) -> Piece:
        """The arrays of one piece, each [slots(n)].

        Args:
          ids: int32 [n], at least 2 (`ptft_jax.data.packing.LEAST`).
          trained: bool [n], the ids that are to be learned; None = all, which it is unless `partly`.
          rng: needed where `random`.
        """


def shifted(ids: np.ndarray, trained: np.ndarray | None) -> Piece:
    """Each id as the target of the one before it: arrays [n - 1], with weight 1 where the target is trained."""
    ids = np.asarray(ids, np.int32)
    weights = np.ones(len(ids) - 1, np.float32) if trained is None else trained[1:].astype(np.float32)
    return {"inputs": ids[:-1], "targets": ids[1:], "weights": weights}
