"""What losses read off logits: the normalizer of their softmax, the target's logit, and the likeliest token."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 128  # logits of which the largest is found first


class Readout(NamedTuple):
    """Of logits [..., V]: the logarithm of the sum of their exponentials and the logit of the target, both of their dtype [...], and the
    first of the tokens whose logit is largest, int32 [...]."""

    log_z: jax.Array
    target: jax.Array
    best: jax.Array


@jax.custom_vjp
def read(logits: jax.Array, targets: jax.Array) -> Readout:
    """The readout of logits [..., V] for targets int [...].

    As `jax.nn.logsumexp`, `take_along_axis` and `argmax` have it, with fewer passes over the logits: the largest of each block of
    tokens serves the normalizer and the likeliest token, and the gradient is made in one pass, without a scatter.
    """
    return _forward(logits, targets)[0]


def _forward(logits: jax.Array, targets: jax.Array) -> tuple[Readout, tuple[jax.Array, ...]]:
    top, best = _largest(logits)
    top = jnp.where(jnp.isfinite(top), top, 0)  # an infinite logit makes an infinite sum, and no NaN
    powers = jnp.exp(logits - top[..., None])
    total = jnp.sum(powers, axis=-1)
    log_z = top + jnp.log(total)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    # CPUs take longer over an exponential than over memory, others the reverse.
    kept = jax.lax.platform_dependent(logits, powers, cpu=lambda _, powers: powers, default=lambda logits, _: logits)
    return Readout(log_z, target, best), (kept, targets, total, log_z)


def _backward(kept: tuple[jax.Array, ...], slopes: Readout) -> tuple[jax.Array, None]:
    array, targets, total, log_z = kept
    shares = jax.lax.platform_dependent(
        array,
        total,
        log_z,
        cpu=lambda powers, total, _: powers / total[..., None],
        default=lambda logits, _, log_z: jnp.exp(logits - log_z[..., None]),
    )
    hit = jnp.arange(array.shape[-1]) == targets[..., None]
    return shares * slopes.log_z[..., None] + jnp.where(hit, slopes.target[..., None], 0), None


read.defvjp(_forward, _backward)


def _largest(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest logit and its first token. The likeliest of all tokens at once is what compilers for CPUs find one by one."""
    size = logits.shape[-1]
    count = size // BLOCK
    if count < 2:
        top = jnp.max(logits, axis=-1)
        numbers = jnp.where(logits == top[..., None], jnp.arange(size, dtype=jnp.float32), jnp.inf)
        return top, jnp.min(numbers, axis=-1, initial=size).astype(jnp.int32)
    tops = jnp.max(logits[..., : count * BLOCK].reshape(*logits.shape[:-1], count, BLOCK), axis=-1)
    if size % BLOCK:
        tops = jnp.concatenate([tops, jnp.max(logits[..., count * BLOCK :], axis=-1, keepdims=True)], axis=-1)
    first = BLOCK * jnp.argmax(tops, axis=-1).astype(jnp.int32)[..., None]
    tokens = jnp.minimum(first + jnp.arange(BLOCK, dtype=jnp.int32), size - 1)
    block = jnp.take_along_axis(logits, tokens, axis=-1)
    within = jnp.argmax(block, axis=-1, keepdims=True)
    # The largest of `tops` would be the same, but compilers would look for it among all logits once more.
    return jnp.max(block, axis=-1), jnp.take_along_axis(tokens, within, axis=-1)[..., 0]
