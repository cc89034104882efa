"""Which of some classes a whole text belongs to."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, Sum
from ptft_jax.objectives.token_loss import as_loss, counted, cross_entropy, metric_names, sums_of, weighted_sum


@dataclasses.dataclass(frozen=True)
class Classification(Rows):
    """Cross-entropy of the class of a row, in nats per row; fields as of `TokenLoss`."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics."""
        return metric_names(self.z_loss)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: targets int [B], the classes, and weights float [B]. Where
        there are segments, one per row beside padding."""
        logits_BC, weights = model.logits(params, hidden_BTD), batch["weights"].astype(jnp.float32)
        sums = cross_entropy(logits_BC, batch["targets"], weights, self.z_loss, self.label_smoothing)
        return as_loss(sums, self.weight(batch), self.z_loss)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, over rows."""
        weights = batch["weights"].astype(jnp.float32)
        scored = (counted(model.logits(*scored), weights) for scored in (first, second))
        return weighted_sum(measure(*scored), weights)

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `TokenLoss`, over rows."""
        weights = batch["weights"].astype(jnp.float32)
        return sums_of(measures, model.logits(params, hidden_BTD), batch["targets"], weights)
