"""Which of some classes a whole text, or an image, belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
        """The loss of a batch by its last hidden states; of the batch: targets int [B], the classes, and weights float [B]; where rows are
        mixed of two, the `other` classes int [B] and the `share` of the first, float [B]. Where there are segments, one per row beside
        padding."""
        logits_BC, weights = model.logits(params, hidden_BTD), batch["weights"].astype(jnp.float32)
        if self.class_weights and len(self.class_weights) != logits_BC.shape[-1]:
            raise UserError(
                f"config.objective.class_weights has {len(self.class_weights)} weights, and the model {logits_BC.shape[-1]} classes: "
                "give one for each"
            )
        sums = self._sums(logits_BC, batch, lambda _: weights)
        plain = as_loss(sums, jnp.sum(weights), self.z_loss)
        if not self.class_weights:
            return plain
        total, _, penalty, _ = self._sums(logits_BC, batch, lambda classes: self._weighing(batch, classes))
        weight = jnp.sum(self.weights(batch))
        own = {"loss": (total, weight)} | ({"z_loss": (penalty, weight)} if self.z_loss else {})
        return Loss(total, weight, {**plain.metrics, **own})

    def weights(self, batch: Batch) -> jax.Array:
        """As of `Rows`, times the weights of classes."""
        return sum(share * self._weighing(batch, classes) for classes, share in _targets(batch))

    def _weighing(self, batch: Batch, classes_B: jax.Array) -> jax.Array:
        weights = batch["weights"].astype(jnp.float32)
        return weights * jnp.asarray(self.class_weights, jnp.float32)[classes_B] if self.class_weights else weights

    def _sums(
        self, logits_BC: jax.Array, batch: Batch, weigh: Callable[[jax.Array], jax.Array]
    ) -> tuple[jax.Array, ...]:
        """The sums of `cross_entropy` over the classes of each row, each times its share; `weigh`: what rows of classes weigh."""
        parts = [
            cross_entropy(logits_BC, classes, share * weigh(classes), self.z_loss, self.label_smoothing)
            for classes, share in _targets(batch)
        ]
        return parts[0] if len(parts) == 1 else tuple(a + b for a, b in zip(*parts))

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


def _targets(batch: Batch) -> list[tuple[jax.Array, Any]]:
    """The classes int [B] of rows, and the share of each: one of 1, or two of images that are mixed (`ptft_jax.data.builders.pictures`)."""
    if "share" not in batch:
        return [(batch["targets"], 1.0)]
    share = batch["share"].astype(jnp.float32)
    return [(batch["targets"], share), (batch["other"], 1.0 - share)]
