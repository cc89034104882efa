"""What comes before the first block of a model of text: tokens to vectors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import Embedding, Norm
from ptft_jax.model.spec import IMAGE, ModelSpec


def placed(x_BTD: jax.Array, tokens_BT: jax.Array, vectors_BND: jax.Array) -> jax.Array:
    """The vectors of tokens, with those of each row's image, in their order, where `tokens_BT` is `IMAGE`."""
    there_BT = tokens_BT == IMAGE
    number_BT = jnp.clip(jnp.cumsum(there_BT, axis=1) - 1, 0, vectors_BND.shape[1] - 1)
    own_BTD = jnp.take_along_axis(vectors_BND.astype(x_BTD.dtype), number_BT[..., None], axis=1)
    return jnp.where(there_BT[..., None], own_BTD, x_BTD)


class TokenEmbed(nnx.Module):
    """Token vectors; plus, where the model has them, position vectors, vectors of the token's type, and a norm.

    `adapter` is the place of methods that add vectors to the vocabulary's: a module called with this one and the tokens
    in place of `of_tokens`, which also knows ids from V on. It is empty (None) unless `ptft_jax.adapters` fills it.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        self.tokens = Embedding(spec.vocab_size, spec, rngs)
        rows = spec.max_length + spec.position_offset
        self.positions = Embedding(rows, spec, rngs) if spec.positions == "learned" else None
        self.types = Embedding(spec.token_types, spec, rngs) if spec.token_types else None
        self.norm = Norm(spec) if spec.embedding_norm else None
        self.adapter: Callable[[TokenEmbed, jax.Array], jax.Array] | None = None

    def of_tokens(self, tokens: jax.Array) -> jax.Array:
        """Vectors [..., D] of tokens int [...]."""
        x = self.tokens(tokens)
        # Gemma: by sqrt(D), rounded to the compute dtype as its authors do
        return x * jnp.asarray(self.spec.width**0.5, x.dtype) if self.spec.embedding_scale else x

    def __call__(self, inputs: Inputs, vectors_BND: jax.Array | None = None) -> jax.Array:
        """[B, T, D] of inputs that say their positions; `vectors_BND` of the rows' images, where they have some."""
        tokens_BT = jnp.maximum(inputs.values, 0) if self.spec.tower else inputs.values
        x_BTD = self.of_tokens(tokens_BT) if self.adapter is None else self.adapter(self, tokens_BT)
        if vectors_BND is not None:
            x_BTD = placed(x_BTD, inputs.values, vectors_BND)
        if inputs.noise is not None:
            x_BTD = x_BTD + inputs.noise.astype(x_BTD.dtype)
        if self.types is not None:
            types_BT = jnp.zeros_like(tokens_BT) if inputs.types is None else inputs.types
            x_BTD = x_BTD + self.types(jnp.minimum(types_BT, self.spec.token_types - 1))
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(inputs.placed + self.spec.position_offset)
        return x_BTD if self.norm is None else self.norm(x_BTD)
