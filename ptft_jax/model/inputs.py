"""What a model is given of a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Inputs(NamedTuple):
    """Rows for a model. All but `values` may be None, where the default is said.

    Attributes:
      values: int token ids [B, T]; of a model of images [B, size, size, channels], uint8 as they are kept, or float as
        `ptft_jax.model.vision.normalized` makes them.
      positions: int [B, T], by default 0..T-1. Packed rows restart them.
      segments: int [B, T]; queries see only keys of their own segment. 0 is padding by convention. Where `one_text_a_row`
        (`ptft_jax.model.transformer.Transformer`), a row has one segment and padding. By default a row is one segment.
      prefix: bool [B, T]; positions of a causal model that also see those of them that come later (prefix LM). By default none.
      types: int token types [B, T], for models that have them (BERT's sentence A or B); by default 0.
      adapters: int [B], which of several adapters a row has, in a model that has several (`ptft_jax.adapters.multi_adapter`).
      neighbors: int token ids [B, U, k, n] of passages that were found for each of U chunks of equal length, in a model that reads such
        (`ptft_jax.adapters.retro`); -1 = no token, and a chunk of which none is there has found nothing.
      keys: one dropout key per row [B]; by default no dropout.
      noise: float [B, T, D], what is added to the tokens' vectors, or the patches'; by default nothing.
      visible: int [B, K], of a model of images the patches that it sees, by their numbers; by default all.
      images: of a model of text with a tower for images [B, size, size, channels], as `values` of a model of images; a row has as many
        positions of its image (`ptft_jax.model.spec.IMAGE` in the place of a token) as there are vectors of one. By default none, and no such
        position.
      reads: int [B, S], the positions that the head of a causal model with classes reads; by default the last that is no padding.
    """

    values: jax.Array
    positions: jax.Array | None = None
    segments: jax.Array | None = None
    prefix: jax.Array | None = None
    types: jax.Array | None = None
    adapters: jax.Array | None = None
    neighbors: jax.Array | None = None
    keys: jax.Array | None = None
    noise: jax.Array | None = None
    visible: jax.Array | None = None
    images: jax.Array | None = None
    reads: jax.Array | None = None

    @classmethod
    def of(cls, inputs: Inputs | jax.Array) -> Inputs:
        """`inputs`, or those that have these values and nothing else."""
        return inputs if isinstance(inputs, Inputs) else cls(inputs)

    @property
    def placed(self) -> jax.Array:
        """The positions [B, T] of rows that say theirs."""
        assert self.positions is not None, "a model gives rows their positions before it reads them"
        return self.positions

    @property
    def read(self) -> jax.Array:
        """The positions int [B, S] that a head on the last token reads, see `reads`."""
        if self.reads is not None:
            return self.reads
        if self.segments is None:
            return jnp.full((self.values.shape[0], 1), self.values.shape[1] - 1, jnp.int32)
        return _last(self.segments > 0)[:, None]


def last_of_each(segments_BT: jax.Array, count: int) -> jax.Array:
    """int32 [B, count]: where in a row the last token of each of its segments 1 to `count` is; 0 of one that it has not."""
    return jnp.stack([_last(segments_BT == number) for number in range(1, count + 1)], axis=1)


def _last(there_BT: jax.Array) -> jax.Array:
    """int32 [B]: the last position of each row where it is; 0 where it is nowhere."""
    return jnp.max(jnp.where(there_BT, jnp.arange(there_BT.shape[1], dtype=jnp.int32), 0), axis=1)
