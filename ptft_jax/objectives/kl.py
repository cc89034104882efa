"""How far apart two distributions over a vocabulary are."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def divergence(first: jax.Array, second: jax.Array) -> jax.Array:
    """KL(first || second) in nats [...], of the distributions that logits [..., V] stand for."""
    log_p, log_q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def symmetric(first: jax.Array, second: jax.Array) -> jax.Array:
    """KL(first || second) + KL(second || first) in nats [...].

    As one sum of products of differences, none below 0: the two are of the size of the square of a small noise, far below
    the rounding of the sums that each KL is made of."""
    log_p, log_q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)
