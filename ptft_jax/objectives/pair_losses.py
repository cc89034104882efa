"""Losses of one pair of answers, as functions of what is called their rewards: differences of log-probabilities, times beta.

c and r, float32 [...], are the rewards of the better (chosen) and the worse (rejected) answer; `noise` is the share of pairs that
are taken to be labeled the wrong way round. s is the logistic function.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def sigmoid(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """-(1 - noise) log s(c - r) - noise log s(r - c): DPO (Rafailov et al. 2023, equation 7), and with noise conservative DPO
    (Mitchell 2023)."""
    return -(1 - noise) * jax.nn.log_sigmoid(c - r) - noise * jax.nn.log_sigmoid(r - c)


def robust(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """((1 - noise) l(c, r) - noise l(r, c)) / (1 - 2 noise), l that of `sigmoid` without noise: its mean over labels that are flipped
    with this probability is the loss without noise (Ray Chowdhury et al. 2024, equation 8)."""
    forward, flipped = -jax.nn.log_sigmoid(c - r), -jax.nn.log_sigmoid(r - c)
    return ((1 - noise) * forward - noise * flipped) / (1 - 2 * noise)


def hinge(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """max(0, 1 - (c - r)) (Zhao et al. 2023, SLiC; with normalized rewards Liu et al. 2024, RSO, equation 10)."""
    del noise
    return jax.nn.relu(1 - (c - r))


def exo(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """KL(p || q), p = softmax([c, r]) and q = [1 - noise, noise] (Ji et al. 2024, EXO, equation 16)."""
    better, worse = jax.nn.log_sigmoid(c - r), jax.nn.log_sigmoid(r - c)
    return jnp.exp(better) * (better - jnp.log1p(-noise)) + jnp.exp(worse) * (worse - jnp.log(noise))


def nca(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """-log s(c) - (log s(-c) + log s(-r)) / 2 (Chen et al. 2024, NCA, equation 11 for a pair): c alone is raised."""
    del noise
    return -jax.nn.log_sigmoid(c) - 0.5 * (jax.nn.log_sigmoid(-c) + jax.nn.log_sigmoid(-r))


def apo_zero(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """1 - s(c) + s(r) (D'Oosterlinck et al. 2024, APO, equation 7): for answers that are better than the model's."""
    del noise
    return 1 - jax.nn.sigmoid(c) + jax.nn.sigmoid(r)


def apo_down(c: jax.Array, r: jax.Array, noise: float) -> jax.Array:
    """s(c) + 1 - s(c - r) (D'Oosterlinck et al. 2024, APO, equation 8): for answers that are worse than the model's."""
    del noise
    return jax.nn.sigmoid(c) + 1 - jax.nn.sigmoid(c - r)


LOSSES = {
    "sigmoid": sigmoid, "robust": robust, "hinge": hinge, "exo": exo, "nca": nca, "apo_zero": apo_zero, "apo_down": apo_down,
}  # fmt: skip
NOISY = ("sigmoid", "robust", "exo")  # those to which the noise means something


def reverse_kl(ratio: jax.Array, alpha: float) -> jax.Array:
    """log t."""
    del alpha
    return ratio


def forward_kl(ratio: jax.Array, alpha: float) -> jax.Array:
    """1 - 1 / t."""
    del alpha
    return alpha_divergence(ratio, 1.0)


def jensen_shannon(ratio: jax.Array, alpha: float) -> jax.Array:
    """log(2 t / (1 + t))."""
    del alpha
    return jnp.log(2.0) + jax.nn.log_sigmoid(ratio)


def alpha_divergence(ratio: jax.Array, alpha: float) -> jax.Array:
    """(1 - t^-alpha) / alpha; alpha -> 0 is `reverse_kl`, 1 is `forward_kl`. Below t = e^-15 it goes on as a straight line: it
    grows like a power of 1 / t there, and what overflows teaches nothing."""
    if not alpha:
        return ratio
    curve = -jnp.expm1(-alpha * jnp.maximum(ratio, -_STEEP)) / alpha
    line = -math.expm1(alpha * _STEEP) / alpha + (ratio + _STEEP) * math.exp(alpha * _STEEP)
    return jnp.where(ratio > -_STEEP, curve, line)


_STEEP = 15.0
# f'(t) of the divergence that holds the model near the reference, t = exp(ratio) the ratio of their probabilities
# (Wang et al. 2023, "Beyond Reverse KL", table 1).
DIVERGENCES = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "jensen_shannon": jensen_shannon,
    "alpha": alpha_divergence,
}
