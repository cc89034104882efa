"""Learned vectors before the tokens (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning")."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Encode, Method, place
from ptft_jax.errors import UserError
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.params.rules import flatten

PROMPT = "embed/adapter/prompt"


class Virtual(nnx.Module):
    """Vectors for the ids V to V + n - 1, V being the vocabulary's size."""

    def __init__(self, embed: TokenEmbed):
        self.vocab_size = embed.spec.vocab_size

    def vectors(self) -> jax.Array:
        """[n, D]."""
        raise NotImplementedError

    def __call__(self, embed: TokenEmbed, tokens: jax.Array) -> jax.Array:
        """Vectors [..., D] of tokens int [...], some of which are the prompt's."""
        prompt = self.vectors()
        own = jnp.clip(tokens - self.vocab_size, 0, prompt.shape[0] - 1)
        others = embed.of_tokens(jnp.minimum(tokens, self.vocab_size - 1))
        vectors = jnp.take(prompt, own, axis=0).astype(others.dtype)
        return jnp.where((tokens >= self.vocab_size)[..., None], vectors, others)


class Vectors(Virtual):
    """`prompt` [n, D], the vectors themselves."""

    def __init__(self, embed: TokenEmbed, prompt: Prompt, key: jax.Array):
        super().__init__(embed)
        shape, dtype = (prompt.length, embed.spec.width), jnp.dtype(embed.spec.param_dtype)
        if prompt.init == "random":
            vectors = jax.random.uniform(key, shape, dtype, -0.5, 0.5)  # section 3.2
        elif prompt.init == "vocabulary":
            tokens = jax.random.choice(key, self.vocab_size, shape[:1], replace=prompt.length > self.vocab_size)
            vectors = embed.of_tokens(tokens).astype(dtype)
        elif prompt.tokens:
            tokens = list(itertools.islice(itertools.cycle(prompt.tokens), prompt.length))
            vectors = embed.of_tokens(jnp.asarray(tokens)).astype(dtype)
        else:  # built without a tokenizer, to hold vectors that are there already: no start
            vectors = jnp.full(shape, jnp.nan, dtype)
        self.prompt = nnx.Param(vectors)

    def vectors(self) -> jax.Array:
        return self.prompt[...]


class VirtualTokens(Method):
    """What methods share that place learned vectors, `length` of them, before the tokens of every row."""

    length: int

    mergeable: ClassVar[bool] = False

    @property
    def virtual_tokens(self) -> int:
        return self.length

    def module(self, embed: TokenEmbed, key: jax.Array) -> Virtual:
        """What goes into the `adapter` slot of the token embedding."""
        raise NotImplementedError

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of the token embedding of a whole model's trunk."""
        embed = getattr(module, "embed", None)
        if isinstance(embed, TokenEmbed):
            place(embed, self.module(embed, rngs.adapter.key[...]), "embed", self)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError for a model that does not read tokens."""
        if "embed/tokens/embedding" not in flatten(shapes):
            raise UserError(f"config.{self.field}: the model has no token embedding to place vectors before")


@dataclasses.dataclass(frozen=True)
class Prompt(VirtualTokens):
    """Places learned vectors before the tokens of every row; every other parameter may stay frozen.

    Attributes:
      length: n, how many.
      init: "vocabulary" starts from the vectors of random tokens, "text" from those of `tokens`, "random" from uniform
        numbers in [-0.5, 0.5].
      text: of init "text".
      tokens: the text's ids (see `encoded`), which are repeated or cut to n as in PEFT. Without them vectors that are
        there already can be used, but none started: they are NaN.
    """

    length: int
    init: str
    text: str = ""
    tokens: tuple[int, ...] = ()

    field: ClassVar[str] = "tune.prompt"
    starts_as_base: ClassVar[bool] = False
    # PEFT's comparison of methods (MetaMathQA), with AdamW: 34% solved from random tokens' vectors at 1e-3, 6% from
    # random numbers at 1e-4. The 0.3 of Lester et al. 2021 (section 3.1) is for Adafactor.
    learning_rate: ClassVar[float] = 1e-3

    @classmethod
    def of(cls, section: Any) -> Prompt:
        """As `Method.of`; the text is read where it matters."""
        return cls(section.length, section.init, section.text if section.init == "text" else "")

    def encoded(self, encode: Encode) -> Prompt:
        if self.init != "text":
            return self
        tokens = tuple(map(int, encode(self.text)))
        if not tokens:
            raise UserError("config.tune.prompt.text is empty: tune.prompt.init=text starts from its tokens")
        return dataclasses.replace(self, tokens=tokens)

    @property
    def note(self) -> str:
        """What became of the text, where it has not n tokens."""
        count = len(self.tokens)
        if count in (0, self.length):
            return ""
        what = f"repeated to {self.length}" if count < self.length else f"the first {self.length} are taken"
        return f"config.tune.prompt.text: its tokens are {count}, {what}"

    def module(self, embed: TokenEmbed, key: jax.Array) -> Virtual:
        return Vectors(embed, self, key)
