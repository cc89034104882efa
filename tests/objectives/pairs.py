"""Pairs with given log-probabilities, for tests of losses beside TRL's."""

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.objectives.dpo import DPO, IPO
from ptft_jax.objectives.preference import Answers
from ptft_jax.objectives.reference_free import CPO, ORPO, SimPO, SLiC

LENGTHS = np.array([[4, 3], [3, 6], [1, 5], [7, 7]])
# TRL's coefficient of the alpha divergence is 1 less the paper's alpha.
OURS = {
    "sigmoid": DPO(),
    "conservative": DPO(label_noise=0.1),
    "hinge": DPO(link="hinge"),
    "robust": DPO(link="robust", label_noise=0.1),
    "exo_pair": DPO(link="exo", label_noise=0.1),
    "nca_pair": DPO(link="nca"),
    "apo_zero": DPO(link="apo_zero"),
    "apo_down": DPO(link="apo_down"),
    "sigmoid_norm": DPO(normalize=True),
    "ipo": IPO(),
    "forward_kl": DPO(divergence_from="forward_kl"),
    "js_divergence": DPO(divergence_from="jensen_shannon"),
    "alpha_divergence": DPO(divergence_from="alpha", alpha=0.7),
}


def logs(seed):
    """Log-probabilities of tokens, float32 [2 pairs, T], the better answers first, and what is an answer's."""
    rng = np.random.default_rng(seed)
    mask = np.arange(8)[None] < LENGTHS.T.reshape(-1, 1)
    return np.where(mask, -rng.gamma(1.0, 1.0, mask.shape), 0).astype(np.float32), mask


# Objectives, TRL's settings, and whether it is given log-probabilities per token.
WITHOUT = {
    "simpo": (SimPO(beta=2.5, margin=0.7), dict(beta=2.5, loss_type="simpo", simpo_gamma=0.7), True),
    "cpo": (CPO(beta=0.3, label_noise=0.2), dict(beta=0.3, loss_type="sigmoid", label_smoothing=0.2), False),
    "slic": (SLiC(), dict(beta=1.0, loss_type="hinge"), False),
    "orpo": (ORPO(beta=0.4), dict(beta=0.4), True),
}


def answers_of(values, reference=None):
    """Our form of log-probabilities [2 pairs, T], the better first."""
    sums = jnp.stack(jnp.split(values.sum(axis=1), 2), axis=-1)[None]
    theirs = jnp.zeros_like(sums)
    if reference is not None:
        theirs = jnp.stack(jnp.split(jnp.asarray(reference).sum(axis=1), 2), axis=-1)[None]
    return Answers(sums, sums, theirs, jnp.asarray(LENGTHS, jnp.float32)[None], None)


def found(objective, mine, reference=None):
    """(loss, its gradient by the log-probability of each token of an answer)."""
    mask = logs(0)[1]
    loss, gradient = jax.value_and_grad(lambda v: objective.pair_loss(answers_of(v, reference)).mean())(
        jnp.asarray(mine)
    )
    return float(loss), np.where(mask, gradient, 0)
