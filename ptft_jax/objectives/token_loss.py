"""Cross-entropy of tokens: what every objective over tokens is made of."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Loss


@dataclasses.dataclass(frozen=True)
class TokenLoss:
    """Weighted cross-entropy of the targets, in nats. Which targets, and what the model sees of the others, is the batch's
    (`ptft_jax.data.builders`).

    Attributes:
      z_loss: weight of log(Z)^2 per token, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
      label_smoothing: share e of the target mass spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
      chunk: positions scored at a time, 0 = all. The [B, T, V] logits are then never held at once: they are
        recomputed chunk by chunk in the backward pass.
      chained: whether the targets' probabilities multiply to that of the text they are, so that bits per byte mean
        something.
      reads_prompt: whether what comes first is read in both directions, when generating too.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int = 0

    chained: ClassVar[bool] = False
    reads_prompt: ClassVar[bool] = False

    def __call__(self, model, params, batch: Batch, keys_B: jax.Array | None = None) -> Loss:
        """Batch: tokens, targets int [B, T]; weights float [B, T]; optional positions and segments int [B, T], prefix
        bool [B, T]."""
        hidden_BTD = model.hidden(
            params,
            batch["tokens"],
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            prefix_BT=batch.get("prefix"),
            keys_B=keys_B,
            adapters_B=batch.get("adapters"),
        )
        score = functools.partial(self._score, model, params)
        targets, weights = batch["targets"], batch["weights"].astype(jnp.float32)
        length = targets.shape[1]
        if not self.chunk or self.chunk >= length:
            sums = score(hidden_BTD, targets, weights)
        else:
            sums = self._chunked(score, hidden_BTD, targets, weights)
        return as_loss(sums, jnp.sum(weights), self.z_loss)

    def _chunked(self, score, hidden_BTD, targets, weights):
        # Chunks run along T, so rows stay on their devices. The last chunk is padded with weight 0.
        length = targets.shape[1]
        pad = -length % self.chunk

        def chunks(x):
            x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(x.shape[0], -1, self.chunk, *x.shape[2:]), 1, 0)

        def add(sums, part):
            return jax.tree.map(jnp.add, sums, jax.checkpoint(score)(*part)), None

        zeros = tuple(jnp.zeros((), jnp.float32) for _ in range(4))
        return jax.lax.scan(add, zeros, jax.tree.map(chunks, (hidden_BTD, targets, weights)))[0]

    def _score(self, model, params, hidden_BTD, targets, weights):
        return cross_entropy(model.logits(params, hidden_BTD), targets, weights, self.z_loss, self.label_smoothing)


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float, label_smoothing: float
) -> tuple[jax.Array, ...]:
    """Sums over targets [...] of (loss, cross-entropy, z-loss, correct), each times the target's weight; logits [..., V]."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = nll
    if label_smoothing:
        uniform = log_z - jnp.mean(logits, axis=-1)
        loss = (1 - label_smoothing) * nll + label_smoothing * uniform
    penalty = z_loss * jnp.square(log_z)
    correct = jnp.argmax(logits, axis=-1) == targets
    # where, not only a product: a padded position may hold inf, and inf * 0 is NaN.
    return tuple(
        jnp.sum(jnp.where(weights > 0, value * weights, 0.0)) for value in (loss + penalty, nll, penalty, correct)
    )


def as_loss(sums: tuple[jax.Array, ...], weight: jax.Array, z_loss: float) -> Loss:
    """The sums of `cross_entropy` with the weight they will be divided by, named."""
    total, nll, penalty, correct = sums
    metrics = {"loss": (total, weight), "nll": (nll, weight), "accuracy": (correct, weight)}
    if z_loss:
        metrics["z_loss"] = (penalty, weight)
    return Loss(total, weight, metrics)
