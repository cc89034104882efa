"""Which of some classes a whole text belongs to."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Loss, Measure, Scored
from ptft_jax.objectives.token_loss import as_loss, cross_entropy, metric_names, weighted_sum


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy of the class of a row, in nats a row; fields as of `TokenLoss`."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    chained: ClassVar[bool] = False
    reads_prompt: ClassVar[bool] = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics."""
        return metric_names(self.z_loss)

    def __call__(self, model, params, batch: Batch, keys_B: jax.Array | None = None) -> Loss:
        """Batch: tokens int [B, T]; targets int [B], the classes; weights float [B]; optional positions and segments
        int [B, T], one segment a row beside padding."""
        return self.loss(model, params, self.hidden(model, params, batch, keys_B), batch)

    def hidden(self, model, params, batch: Batch, keys_B: jax.Array | None = None, noise_BTD=None) -> jax.Array:
        """The last hidden states [B, T, D] of a batch; `noise_BTD` is added to the vectors of its tokens."""
        return model.hidden(
            params,
            batch["tokens"],
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            keys_B=keys_B,
            noise_BTD=noise_BTD,
            adapters_B=batch.get("adapters"),
        )

    def loss(self, model, params, hidden_BTD: jax.Array, batch: Batch) -> Loss:
        """The loss of a batch by its last hidden states."""
        logits_BC, weights = model.logits(params, hidden_BTD), batch["weights"].astype(jnp.float32)
        sums = cross_entropy(logits_BC, batch["targets"], weights, self.z_loss, self.label_smoothing)
        return as_loss(sums, jnp.sum(weights), self.z_loss)

    def divergence(self, model, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, over rows."""
        values = measure(model.logits(*first), model.logits(*second))
        return weighted_sum(values, batch["weights"].astype(jnp.float32))
