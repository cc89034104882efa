"""What a model is given of a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Inputs(NamedTuple):
    """Rows for a model. All but `values` may be None, where the default is said.

    Attributes:
      values: int token ids [B, T]; of a model of images, float [B, size, size, channels].
      positions: int [B, T], by default 0..T-1. Packed rows restart them.
      segments: int [B, T]; queries see only keys of their own segment. 0 is padding by convention. Where `one_text_a_row`
        (`ptft_jax.model.transformer.Transformer`), a row has one segment and padding. By default a row is one segment.
      prefix: bool [B, T]; positions of a causal model that also see those of them that come later (prefix LM). By default none.
      types: int token types [B, T], for models that have them (BERT's sentence A or B); by default 0.
      adapters: int [B], which of several adapters a row has, in a model that has several (`ptft_jax.adapters.multi_adapter`).
      keys: one dropout key per row [B]; by default no dropout.
      noise: float [B, T, D], what is added to the tokens' vectors, of models of text; by default nothing.
    """

    values: jax.Array
    positions: jax.Array | None = None
    segments: jax.Array | None = None
    prefix: jax.Array | None = None
    types: jax.Array | None = None
    adapters: jax.Array | None = None
    keys: jax.Array | None = None
    noise: jax.Array | None = None

    @classmethod
    def of(cls, inputs: Inputs | jax.Array) -> Inputs:
        """`inputs`, or those that have these values and nothing else."""
        return inputs if isinstance(inputs, Inputs) else cls(inputs)

    @property
    def placed(self) -> jax.Array:
        """The positions [B, T] of rows that say theirs."""
        assert self.positions is not None, "a model gives rows their positions before it reads them"
        return self.positions
