"""The next token of good texts is made likely, and that of bad ones unlikely."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Sum
from ptft_jax.objectives.token_loss import TokenLoss, counted, cross_entropy, measured_of, summed, weighted_sum


@dataclasses.dataclass(frozen=True)
class Unlikelihood(TokenLoss):
    """-log p of each target of a good text, and -bad_weight log(1 - p) of each of a bad one (Welleck et al. 2020, "Neural Text
    Generation with Unlikelihood Training", equation 4; of whole segments of text Korbak et al. 2023, "Pretraining Language Models with
    Human Preferences", equation 4); the mean over all targets.

    Batches say of each target whether it is of a good text: `good`, bool [B, T]. Label smoothing and the z-loss are those of good ones.

    Attributes:
      bad_weight: alpha of the papers.
    """

    bad_weight: float = 1.0

    # Of the targets of good texts, but for the loss and for "bad_probability", the mean p of those of bad ones.
    metrics: ClassVar[tuple[str, ...]] = ("loss", "nll", "accuracy", "bad_probability")

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """As of `TokenLoss`, with `good` bool [B, T] of the batch."""

        def score(hidden: jax.Array, targets: jax.Array, weights: jax.Array, good: jax.Array) -> tuple[jax.Array, ...]:
            logits = model.logits(params, hidden)
            liked, disliked = jnp.where(good, weights, 0.0), jnp.where(good, 0.0, weights)
            total, nll, _, correct = cross_entropy(logits, targets, liked, self.z_loss, self.label_smoothing)
            log_p, log_not_p = _both(counted(logits, disliked), targets)
            penalty = weighted_sum(-log_not_p, disliked)
            return total + self.bad_weight * penalty, nll, correct, weighted_sum(jnp.exp(log_p), disliked)

        weights, good = batch["weights"].astype(jnp.float32), batch["good"]
        arrays = (hidden_BTD, batch["targets"], weights, good)
        total, nll, correct, bad = summed(self.chunk, score, *arrays, parts=model.context_parts)
        weight, liked = jnp.sum(weights), jnp.sum(_of_good(batch))
        found = {"loss": (total, weight), "nll": (nll, liked), "accuracy": (correct, liked)}
        return Loss(total, weight, {**found, "bad_probability": (bad, weight - liked)})

    def nll_weight(self, batch: Batch) -> jax.Array:
        """As of `Rows`: the targets of good texts."""
        return jnp.sum(_of_good(batch))

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `TokenLoss`, of the targets of good texts."""
        return measured_of(self.chunk, model, (params, hidden_BTD), batch["targets"], _of_good(batch), measures)


def _both(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log p, log(1 - p)) of targets int [...], by logits float [..., V]."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - log_z
    # Of the other tokens, and not by way of 1 - p, which is 0 where the model is sure: the gradient is then still right.
    others = jnp.where(targets[..., None] == jnp.arange(logits.shape[-1]), -jnp.inf, logits)
    return log_p, jax.nn.logsumexp(others, axis=-1) - log_z


def _of_good(batch: Batch) -> jax.Array:
    """float32 [B, T]: what the targets of good texts weigh, and 0 elsewhere."""
    return jnp.where(batch["good"], batch["weights"].astype(jnp.float32), 0.0)
