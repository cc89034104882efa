"""Which of some classes a whole text belongs to."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.errors import UserError
from ptft_jax.objectives import counts
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, Sum
from ptft_jax.objectives.token_loss import as_loss, counted, cross_entropy, metric_names, sums_of, weighted_sum


@dataclasses.dataclass(frozen=True)
class Classification(Rows):
    """Cross-entropy of the class of a row, in nats per row; fields as of `TokenLoss`, and

    Attributes:
      class_weights: what the loss of a row weighs, by the number of its class; () = all the same. The loss is a weighted mean, as
        torch's `CrossEntropyLoss(weight=...)`; other metrics count each row once.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    scores: ClassVar[tuple[str, ...]] = counts.F1

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics."""
        return metric_names(self.z_loss)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: targets int [B], the classes, and weights float [B]. Where
        there are segments, one per row beside padding."""
        logits_BC, weights = model.logits(params, hidden_BTD), batch["weights"].astype(jnp.float32)
        if self.class_weights and len(self.class_weights) != logits_BC.shape[-1]:
            raise UserError(
                f"config.objective.class_weights has {len(self.class_weights)} weights, and the model {logits_BC.shape[-1]} classes: "
                "give one for each"
            )
        sums = cross_entropy(logits_BC, batch["targets"], weights, self.z_loss, self.label_smoothing)
        plain = as_loss(sums, jnp.sum(weights), self.z_loss)
        if not self.class_weights:
            return plain
        weighing = self.weights(batch)
        total, _, penalty, _ = cross_entropy(logits_BC, batch["targets"], weighing, self.z_loss, self.label_smoothing)
        weight = jnp.sum(weighing)
        own = {"loss": (total, weight)} | ({"z_loss": (penalty, weight)} if self.z_loss else {})
        return Loss(total, weight, {**plain.metrics, **own})

    def weights(self, batch: Batch) -> jax.Array:
        """As of `Rows`, times the weights of classes."""
        weights = batch["weights"].astype(jnp.float32)
        return (
            weights * jnp.asarray(self.class_weights, jnp.float32)[batch["targets"]] if self.class_weights else weights
        )

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """How often each class is named rightly."""
        return counts.tables(model.logits(params, hidden_BTD), batch["targets"], batch["weights"])

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, over rows."""
        weights = self.weights(batch)
        scored = (counted(model.logits(*scored), weights) for scored in (first, second))
        return weighted_sum(measure(*scored), weights)

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `TokenLoss`, over rows."""
        weights = batch["weights"].astype(jnp.float32)
        return sums_of(measures, model.logits(params, hidden_BTD), batch["targets"], weights)
