"""Learned vectors before the tokens (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Method, place
from ptft_jax.errors import UserError
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.params.rules import flatten

PROMPT = "embed/adapter/prompt"


class Vectors(nnx.Module):
    """`prompt` [n, D], the vectors of the ids V to V + n - 1, V being the vocabulary's size."""

    def __init__(self, embed: TokenEmbed, prompt: Prompt, key: jax.Array):
        table = embed.tokens.embedding[...]
        self.vocab_size, shape = table.shape[0], (prompt.length, table.shape[1])
        if prompt.init == "random":
            vectors = jax.random.uniform(key, shape, table.dtype, -0.5, 0.5)  # section 3.2
        else:
            tokens = jax.random.choice(key, self.vocab_size, shape[:1], replace=prompt.length > self.vocab_size)
            vectors = embed.of_tokens(tokens).astype(table.dtype)
        self.prompt = nnx.Param(vectors)

    def __call__(self, embed: TokenEmbed, tokens: jax.Array) -> jax.Array:
        """Vectors [..., D] of tokens int [...], some of which are the prompt's."""
        own = jnp.clip(tokens - self.vocab_size, 0, self.prompt.shape[0] - 1)
        vectors = jnp.take(self.prompt[...], own, axis=0)
        others = embed.of_tokens(jnp.minimum(tokens, self.vocab_size - 1))
        return jnp.where((tokens >= self.vocab_size)[..., None], vectors.astype(others.dtype), others)


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
    """Places learned vectors before the tokens of every row; every other parameter may stay frozen.

    Attributes:
      length: n, how many.
      init: "vocabulary" starts from the vectors of random tokens, "random" from uniform numbers in [-0.5, 0.5].
    """

    length: int
    init: str

    field: ClassVar[str] = "tune.prompt"
    learning_rate: ClassVar[float] = 0.3  # Lester et al. 2021, section 3.1
    mergeable: ClassVar[bool] = False

    @property
    def virtual_tokens(self) -> int:
        """How many positions before the tokens the method takes."""
        return self.length

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of the token embedding of a whole model's trunk."""
        embed = getattr(module, "embed", None)
        if isinstance(embed, TokenEmbed):
            place(embed, Vectors(embed, self, rngs.adapter.key[...]), "embed", self)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError for a model that does not read tokens."""
        if "embed/tokens/embedding" not in flatten(shapes):
            raise UserError("tune.method = 'prompt': the model has no token embedding to place vectors before")

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Raises UserError: no plain model's parameters do what a prompt does."""
        raise UserError(
            "tune.method = 'prompt': learned vectors before the tokens cannot be merged into the parameters of a plain "
            "model; use the run as it is (generate, eval), or its base"
        )
