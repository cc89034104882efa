"""Answers with given log-probabilities, for tests of policy gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.objectives.base import Context
from ptft_jax.objectives.policy import FACTS, GRPO, RLOO, Tokens

LENGTHS = (3, 7, 1, 5)
LIMIT = 7
MASK = (np.arange(8)[None] < np.array(LENGTHS)[:, None]).astype(np.float32)
ADVANTAGES = np.array([0.7, -1.1, 0.4, -0.2], np.float32)


def logs(seed, near=None):
    """float32 [4, 8]: log-probabilities of tokens; `near`: those that these are near to."""
    rng = np.random.default_rng(seed)
    values = -rng.gamma(1.0, 1.0, MASK.shape) if near is None else near + 0.3 * rng.normal(size=MASK.shape)
    return (values * MASK).astype(np.float32)


def batch(**changes):
    out = {
        "inputs": np.zeros(MASK.shape, np.int32),
        "targets": np.zeros(MASK.shape, np.int32),
        "weights": MASK,
        "sampled": logs(1, near=logs(0)),
        "advantages": ADVANTAGES,
        "counts": np.ones(4, np.float32),
        **{name: np.zeros(4, np.float32) for name in FACTS},
    }
    return out | changes


def given(kind=GRPO, **settings):
    """An objective whose "hidden states" are the log-probabilities that the model gives tokens, and "parameters" those of a reference."""

    def scored(self, model, params, hidden_BTD, batch):
        return Tokens(hidden_BTD, 0 * hidden_BTD)

    def by_reference(self, model, params, batch):
        return params

    made = type("Given", (kind,), {"scored": scored, "by_reference": by_reference})
    return dataclasses.dataclass(frozen=True)(made)(limit=LIMIT, **settings)


# What TRL calls them, and what they are here.
VARIANTS = {
    "grpo": (dict(loss_type="grpo"), given()),
    "dapo": (dict(loss_type="dapo"), given(average="token")),
    "dr_grpo": (dict(loss_type="dr_grpo"), given(average="constant")),
    "clipped": (
        dict(loss_type="grpo", epsilon_low=0.1, epsilon_high=0.28),
        given(clip_low=0.1, clip_high=0.28),
    ),
    "gspo": (
        dict(loss_type="grpo", importance_sampling_level="sequence", epsilon_low=0.05, epsilon_high=0.1),
        given(ratio="sequence", clip_low=0.05, clip_high=0.1),
    ),
    "k3": (dict(loss_type="dapo", beta=0.3), given(average="token", kl=0.3)),
}
PRODUCT = given(RLOO, ratio="product", clip_low=0.2, clip_high=0.2)


def found(objective, **changes):
    """(loss of `batch`, its gradient by the log-probability of each token)."""

    def ours(mine):
        loss = objective.loss_of(None, None, mine, batch(**changes), Context(reference=jnp.asarray(logs(2))))
        return loss.total / loss.weight

    loss, gradient = jax.value_and_grad(ours)(jnp.asarray(logs(0)))
    return float(loss), np.asarray(gradient)
