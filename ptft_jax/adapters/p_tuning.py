"""A prompt that a small network makes while it is learned (Liu et al. 2021, "GPT Understands, Too")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Method, float32
from ptft_jax.adapters.bottleneck import Dense, uniform
from ptft_jax.adapters.prompt import PROMPT, Prompt, Virtual, VirtualTokens
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.params.rules import flatten, unflatten

ENCODERS = ("mlp", "lstm")
RECURRENT = 2  # LSTMs one on the other, as in the authors' code


class Lstm(nnx.Module):
    """One direction of a recurrent layer (Hochreiter & Schmidhuber 1997): `input` [in, 4 * H], `recurrent` [H, 4 * H] and
    `bias` [4 * H] of the input, forget, cell and output gates; uniform within 1/sqrt(H)."""

    def __init__(self, size_in: int, size: int, key: jax.Array, dtype: Any):
        shapes, bound = {"input": (size_in, 4 * size), "recurrent": (size, 4 * size), "bias": (4 * size,)}, size**-0.5
        for (name, shape), k in zip(shapes.items(), jax.random.split(key, 3)):
            setattr(self, name, nnx.Param(jax.random.uniform(k, shape, dtype, -bound, bound)))

    def __call__(self, x_TD: jax.Array, reverse: bool) -> jax.Array:
        """[T, in] to [T, H], from the last to the first where `reverse`."""
        gates_TG = x_TD @ float32(self.input[...]) + float32(self.bias[...])
        recurrent = float32(self.recurrent[...])

        def one(carry, gates_G):
            h, c = carry
            i, f, g, o = jnp.split(gates_G + h @ recurrent, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((2, recurrent.shape[0]))
        return jax.lax.scan(one, (start[0], start[1]), gates_TG, reverse=reverse)[1]


class Encoded(Virtual):
    """The prompt as a network's output (section 3.2). `embedding` [n, D] goes through

    "mlp": input, relu, hidden, relu, output (D to size to size to D), as in PEFT;
    "lstm": two bidirectional LSTMs, then hidden, relu, output (D to 2 * size to 2 * size to D).
    """

    def __init__(self, embed: TokenEmbed, method: PTuning, key: jax.Array):
        super().__init__(embed)
        width, size, dtype = embed.spec.width, method.hidden, jnp.dtype(embed.spec.param_dtype)
        keys = iter(jax.random.split(key, 4 + 2 * RECURRENT))
        self.embedding = nnx.Param(jax.random.normal(next(keys), (method.length, width), dtype))
        self.recurrent = method.encoder == "lstm"
        inner = 2 * size if self.recurrent else size
        self.hidden = Dense(uniform(next(keys), (inner, inner), dtype))
        self.output = Dense(uniform(next(keys), (inner, width), dtype))
        if self.recurrent:
            for number in range(RECURRENT):
                for direction in ("forward", "backward"):
                    lstm = Lstm(inner if number else width, size, next(keys), dtype)
                    setattr(self, f"{direction}_{number}", lstm)
        else:
            self.input = Dense(uniform(next(keys), (width, size), dtype))

    def vectors(self) -> jax.Array:
        """[n, D] in float32."""
        x = float32(self.embedding[...])
        if self.recurrent:
            for number in range(RECURRENT):
                both = getattr(self, f"forward_{number}"), getattr(self, f"backward_{number}")
                x = jnp.concatenate([both[0](x, False), both[1](x, True)], axis=-1)
        else:
            x = jax.nn.relu(self.input(x))
        return self.output(jax.nn.relu(self.hidden(x)))


@dataclasses.dataclass(frozen=True)
class PTuning(VirtualTokens):
    """Places vectors before the tokens of every row that a network makes of learned ones.

    Attributes:
      length: n, how many.
      hidden: the network's size.
      encoder: "mlp" or "lstm".
    """

    length: int
    hidden: int
    encoder: str

    field: ClassVar[str] = "tune.p_tuning"
    starts_as_base: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 5e-4  # PEFT's comparison of methods (MetaMathQA), with the LSTM

    def module(self, embed: TokenEmbed, key: jax.Array) -> Virtual:
        return Encoded(embed, self, key)

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
        """A plain prompt of the network's output."""
        encoded = trunk.embed.adapter
        flat = {p: a for p, a in flatten(params).items() if not p.startswith("embed/adapter/")}
        prompt = encoded.vectors().astype(encoded.embedding.dtype)
        return Prompt(self.length, "random"), unflatten(flat | {PROMPT: prompt})
