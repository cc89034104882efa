"""Passages and questions as vectors that a run makes of them, compared by cosine: exact search over all passages.

A question is read as the beginning of a text (what the tokenizer starts texts with stands before it), a passage as what ends one (its end token
stands behind it), each by itself: as the objective `contrastive` has them in training.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.contrastive import pooled, unit
from ptft_jax.retrieval.bm25 import best
from ptft_jax.retrieval.passages import Passage, Written
from ptft_jax.rewards.models import padded
from ptft_jax.runs.source import parameters_fingerprint

VECTORS = "vectors.npy"
ROWS = 32  # at a time
_BLOCK = 1 << 16  # passages that are compared at a time


class Encoder:
    """A run that makes vectors of texts.

    Attributes:
      identity: what decides the vectors: a fingerprint of its parameters and of its tokenizer, and how states are pooled.
    """

    def __init__(self, loaded: Any, pooling: str):
        """`loaded`: of `ptft_jax.runs.loading.load`. Raises UserError for a model of images, or with several adapters."""
        if loaded.tokenizer is None:
            raise UserError(f"--run: {loaded.source.name} reads images, and an index is made of texts")
        if loaded.model.several:
            raise UserError(f"--run: {loaded.source.name} has several adapters; choose one: RUN#NAME")
        self._loaded, self._pooling = loaded, pooling
        from ptft_jax.data import tokenizers as tok

        self.identity = {
            "parameters": parameters_fingerprint(loaded.params),
            "tokenizer": tok.fingerprint(loaded.tokenizer),
            "pooling": pooling,
        }

    @property
    def width(self) -> int:
        return int(self._loaded.model.spec.width)

    def queries(self, texts: Sequence[str], wheres: Sequence[str]) -> np.ndarray:
        """float32 [n, D], each of length 1. Raises UserError for a text that the model has no room for: nothing is cut."""
        tokenizer = self._loaded.tokenizer
        return self._vectors([[*tokenizer.prefix_ids, *tokenizer.encode(text).tolist()] for text in texts], wheres)

    def passages(self, texts: Sequence[str], wheres: Sequence[str]) -> np.ndarray:
        """As `queries`, of passages."""
        tokenizer = self._loaded.tokenizer
        return self._vectors([[*tokenizer.encode(text).tolist(), tokenizer.end_id] for text in texts], wheres)

    def _vectors(self, rows: Sequence[list[int]], wheres: Sequence[str]) -> np.ndarray:
        most = self._loaded.model.max_tokens
        for row, where in zip(rows, wheres):
            if len(row) > most:
                raise UserError(
                    f"{where}: {len(row):,} tokens: {self._loaded.source.name} reads at most {most:,}, and nothing is cut; "
                    "--words=N makes shorter passages of a document"
                )
            if not row:
                raise UserError(f"{where}: no token of the tokenizer's: nothing could be compared")
        found = np.zeros((len(rows), self.width), np.float32)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for first in range(0, len(rows), ROWS):
            which = order[first : first + ROWS]
            inputs, _ = padded([rows[n] for n in which], ROWS, most)
            made = np.asarray(_encoded(self._loaded.model, self._loaded.params, inputs, self._pooling))[: len(which)]
            if not np.isfinite(made).all():
                raise UserError(f"{wheres[which[0]]}: {self._loaded.source.name} makes vectors that are not finite")
            found[which] = made
        return found


@functools.partial(jax.jit, static_argnums=(0, 3))
def _encoded(model: Transformer, params: Any, inputs: Inputs, pooling: str) -> jax.Array:
    """float32 [B, D]."""
    return unit(pooled(model.hidden(params, inputs), inputs.segments > 0, pooling))


def build(
    folder: pathlib.Path, passages: Written, encoder: Encoder, done: int, at: Callable[[int], None], rows: int = 1024
) -> None:
    """Writes the vectors of passages, `rows` at a time; those before `done` are there already. `at` is told how many are."""
    path = folder / VECTORS
    shape = (len(passages), encoder.width)
    if done:
        vectors = np.lib.format.open_memmap(path, mode="r+")
    else:
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for first in range(done, len(passages), rows):
        some: list[Passage] = passages[first : first + rows]
        vectors[first : first + len(some)] = encoder.passages([one.text for one in some], [one.where for one in some])
        vectors.flush()
        at(first + len(some))


class Dense:
    """An index in a folder, with the run that made it."""

    def __init__(self, folder: pathlib.Path, encoder: Callable[[], Encoder]):
        self._vectors, self._encoder = np.load(folder / VECTORS, mmap_mode="r"), functools.cache(encoder)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest passages of each query, as `Bm25.search` has them; the scores are cosines."""
        numbers, values = np.full((len(queries), k), -1, np.int32), np.zeros((len(queries), k), np.float32)
        for first in range(0, len(queries), 256):
            some = queries[first : first + 256]
            vectors = self._encoder().queries(some, [f"the query {text!r}" for text in some])
            for n, (which, scores) in enumerate(nearest(vectors, self._vectors, k), first):
                numbers[n, : len(which)], values[n, : len(which)] = which, scores
        return numbers, values


def nearest(
    queries: np.ndarray, keys: np.ndarray, k: int, *, squared: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each of `queries` [Q, D] the k of `keys` [N, D] with the largest inner product, exactly: their numbers and products, the largest
    first, of equal ones the lowest number. With `squared` those with the smallest squared distance: of each the product less half of the
    key's square. Keys may be memory-mapped: a block at a time is held."""
    kept: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    for first in range(0, len(keys), _BLOCK):
        block = np.asarray(keys[first : first + _BLOCK], np.float32)
        products = queries @ block.T
        if squared:
            products -= np.square(block).sum(axis=1) / 2
        for n, row in enumerate(products):
            which = best(row, k)
            numbers = np.concatenate([kept[n][0], which + first])
            scores = np.concatenate([kept[n][1], row[which]])
            top = best(scores, k)  # earlier blocks have the lower numbers
            kept[n] = numbers[top], scores[top]
    yield from kept
