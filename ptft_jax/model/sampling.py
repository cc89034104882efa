"""How the next token is chosen from its logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.config import field as fields
from ptft_jax.errors import UserError

_SAMPLING = {
    "temperature": fields.temperature(1.0, "0 takes the likeliest token"),
    "top_k": fields.natural(0, "0 = all"),
    "top_p": fields.mass(1.0, "mass of the likeliest tokens"),
    "min_p": fields.share(0.0, "share of the likeliest token's probability", small=True),
}


def check(name: str, field: fields.Field, value: Any) -> None:
    """Raises UserError for a value that the field does not take."""
    _, wrong = field.read(value.item() if isinstance(value, np.generic) else value)
    if wrong:
        raise UserError(f"{name}{wrong}")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Filters apply in this order, each on what the former left.

    Attributes:
      temperature: logits are divided by it; 0 takes the likeliest token.
      top_k: keep the k likeliest, of equally likely ones those of the lowest ids; 0 = all.
      top_p: keep the smallest set of likeliest tokens whose mass reaches p (Holtzman et al. 2020, section 3.1).
      min_p: keep tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024, section 3).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, field in _SAMPLING.items():
            check(name, field, getattr(self, name))

    @property
    def truncates(self) -> bool:
        """Whether some tokens may be left out."""
        return bool(self.top_k or self.top_p < 1.0 or self.min_p)


def filtered(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits after temperature and filters; excluded tokens are -inf. Of equal logits the one of the lowest id is the likelier."""
    logits = logits_BV / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        # Before they are divided, which may make equal what is not.
        chosen = jax.lax.top_k(logits_BV, sampling.top_k)[1]
        keep = jnp.put_along_axis(jnp.zeros(logits.shape, bool), chosen, True, axis=-1, inplace=False)
        logits = jnp.where(keep, logits, -jnp.inf)
    if sampling.top_p < 1.0:
        order = jnp.argsort(-logits, axis=-1, stable=True)
        mass = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        keep = jnp.cumsum(mass, axis=-1) - mass < sampling.top_p  # the mass before a token; the first always stays
        rank = jnp.argsort(order, axis=-1)
        logits = jnp.where(jnp.take_along_axis(keep, rank, axis=-1), logits, -jnp.inf)
    if sampling.min_p > 0.0:
        probability = jax.nn.softmax(logits, axis=-1)
        floor = sampling.min_p * probability.max(axis=-1, keepdims=True)
        logits = jnp.where(probability < floor, -jnp.inf, logits)
    return logits


def choose(logits_BV: jax.Array, keys_B: jax.Array, count_B: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token int [B] of each row, whose noise follows from its key and from how many new tokens it has."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    keys = jax.vmap(jax.random.fold_in)(keys_B, count_B)
    return jax.vmap(jax.random.categorical)(keys, filtered(logits_BV, sampling))


def log_probabilities(logits_BV: jax.Array, token_B: jax.Array, sampling: Sampling) -> jax.Array:
    """float32 [B, 2]: the logarithms of a token's probability by the model, and of that with which it was drawn."""
    logits_BV = logits_BV.astype(jnp.float32)

    def of_token(logits_BV: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.log_softmax(logits_BV, axis=-1), token_B[:, None], axis=-1)[:, 0]

    by_model = of_token(logits_BV)
    drawn = jnp.zeros_like(by_model) if sampling.temperature == 0 else of_token(filtered(logits_BV, sampling))
    return jnp.stack([by_model, drawn], axis=-1)


def support_bits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """uint8 [B, V / 8]: a bit for each token, 1 where it could be drawn; that of token v is v % 8, counted from the lowest, of byte v // 8.
    At a temperature above 0."""
    return jnp.packbits(jnp.isfinite(filtered(logits_BV.astype(jnp.float32), sampling)), axis=-1, bitorder="little")
