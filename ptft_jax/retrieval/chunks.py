"""Passages for the chunks of rows of tokens, which a model reads while it predicts the next chunk (`ptft_jax.adapters.retro`).

What a chunk has follows from its tokens and the index alone: a row has the same passages in every epoch, process and resumed run.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError
from ptft_jax.retrieval.index import Index

FIELD = "config.data.neighbors"
NONE = -1  # in the place of a token


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """What finds passages.

    Attributes:
      folder: of the index; `fingerprint` of it and of the tokenizer that passages are read by.
      chunk, k, length: as of `config.data.neighbors`.
    """

    folder: str
    chunk: int
    k: int
    length: int
    fingerprint: str
    tokenizer: Tokenizer = dataclasses.field(compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # without what was read of the index
        return Neighbors, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @functools.cached_property
    def _index(self) -> Index:
        return Index(self.folder, f"{FIELD}.index")

    @functools.cached_property
    def passages(self) -> np.ndarray:
        """int32 [passages, length]: the tokens of each, then `NONE`. Raises UserError for one that is longer."""
        made = np.full((len(self._index.passages), self.length), NONE, np.int32)
        for n, one in enumerate(self._index.passages):
            ids = self.tokenizer.encode(one.text.strip())
            if len(ids) > self.length:
                raise UserError(
                    f"{FIELD}.length = {self.length}: the passage {one.id!r} of {self.folder} has {len(ids):,} tokens, and nothing is cut: raise it, or "
                    "make the index of shorter passages (ptft index --words=N)"
                )
            made[n, : len(ids)] = ids
        return made

    def check(self) -> None:
        """Reads all passages. Raises UserError as `passages`, before anything is compiled."""
        _ = self.passages

    def of_rows(self, inputs_BT: np.ndarray, segments_BT: np.ndarray | None) -> np.ndarray:
        """int32 [B, U, k, length]: what is found for each chunk by its words, the best first. Padding (segment 0) is no part of a chunk.

        Raises UserError where rows are not several whole chunks.
        """
        shape = self.of_length(inputs_BT.shape[1])
        chunks = inputs_BT.reshape(-1, self.chunk)
        there = np.ones(chunks.shape, bool) if segments_BT is None else segments_BT.reshape(chunks.shape) > 0
        texts = [self.tokenizer.decode(ids[own].tolist()) for ids, own in zip(chunks, there)]
        found, _ = self._index.search(texts, self.k)
        tokens = np.where(found[..., None] >= 0, self.passages[np.maximum(found, 0)], NONE)
        return tokens.reshape(-1, *shape).astype(np.int32)

    def of_length(self, length: int) -> tuple[int, int, int]:
        """(U, k, n) of rows of so many tokens. Raises UserError where these are not several whole chunks."""
        if length % self.chunk or length == self.chunk:
            raise UserError(
                f"{FIELD}.chunk = {self.chunk}: rows have {length} tokens (data.length): expected several whole chunks"
            )
        return length // self.chunk, self.k, self.length


def with_neighbors(builder: Any, tokenizer: Tokenizer, model: Any, data: Any) -> Causal:
    """A builder whose rows have what is found for their chunks.

    Args:
      model: a `ModelSpec`, or `config.model`.
      data: `config.data`.

    Raises:
      UserError: rows of another objective, packed ones, passages longer than the model reads, an index that cannot be looked up in by words.
    """
    s = data.neighbors
    index = Index(s.index, f"{FIELD}.index")
    if index.facts["kind"] != "bm25":
        raise UserError(
            f"{FIELD}.index = {s.index!r}: an index of kind {index.facts['kind']}: chunks are looked up by their words (ptft index --kind=bm25)"
        )
    if type(builder) is not Causal:
        raise UserError(f"{FIELD}.index: chunks are of rows of the next token: expected objective.name = 'causal_lm'")
    if data.packing in ("first_fit", "best_fit"):
        raise UserError(
            f"{FIELD}.index: a chunk of packed rows (data.packing = {data.packing!r}) would be of several texts, which do not see each other: expected "
            "none, or concat"
        )
    if s.length > model.max_length:
        raise UserError(
            f"{FIELD}.length = {s.length}: the model reads at most {model.max_length} tokens (model.max_length)"
        )
    if s.k > len(index.passages):
        raise UserError(f"{FIELD}.k = {s.k}: the index {s.index} has {len(index.passages):,} passages")
    from ptft_jax.data import cache
    from ptft_jax.data import tokenizers as tok

    fingerprint = cache.digest("chunks-1", index.fingerprint, tok.fingerprint(tokenizer), str((s.chunk, s.k, s.length)))
    neighbors = Neighbors(s.index, s.chunk, s.k, s.length, fingerprint, tokenizer)
    vars(neighbors)["_index"] = (
        index  # it has just been opened, and its files looked at; copies in workers open their own
    )
    neighbors.of_length(data.length)
    return dataclasses.replace(builder, neighbors=neighbors)
