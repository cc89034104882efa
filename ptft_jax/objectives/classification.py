"""Which of some classes a whole text belongs to."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Loss
from ptft_jax.objectives.token_loss import as_loss, cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy of the class of a row, in nats a row; fields as of `TokenLoss`."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    chained: ClassVar[bool] = False
    reads_prompt: ClassVar[bool] = False

    def __call__(self, model, params, batch: Batch, keys_B: jax.Array | None = None) -> Loss:
        """Batch: tokens int [B, T]; targets int [B], the classes; weights float [B]; optional positions and segments
        int [B, T], one segment a row beside padding."""
        hidden_BTD = model.hidden(
            params,
            batch["tokens"],
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            keys_B=keys_B,
            adapters_B=batch.get("adapters"),
        )
        logits_BC, weights = model.logits(params, hidden_BTD), batch["weights"].astype(jnp.float32)
        sums = cross_entropy(logits_BC, batch["targets"], weights, self.z_loss, self.label_smoothing)
        return as_loss(sums, jnp.sum(weights), self.z_loss)
