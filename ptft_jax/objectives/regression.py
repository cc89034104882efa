"""Which number belongs to a whole text."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.errors import UserError
from ptft_jax.objectives import correlation
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, Sum
from ptft_jax.objectives.token_loss import sums_of, weighted_sum


@dataclasses.dataclass(frozen=True)
class Regression(Rows):
    """Mean squared error of the number of a row, as torch's `MSELoss`, which transformers takes for a head with one number."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "mse")
    scores: ClassVar[tuple[str, ...]] = correlation.NAMES

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: targets float32 [B], and weights float [B]."""
        weights = self.weights(batch)
        # Before it is squared, or the gradient of what weighs nothing is 0 * NaN.
        apart = jnp.where(weights > 0, _predicted(model, params, hidden_BTD) - batch["targets"], 0.0)
        errors = weighted_sum(jnp.square(apart), weights)
        weight = jnp.sum(weights)
        return Loss(errors, weight, {name: (errors, weight) for name in self.metrics})

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """What was predicted of each row beside what is right."""
        predicted = _predicted(model, params, hidden_BTD)
        return correlation.tables(predicted, batch["targets"], batch["weights"])

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """Raises UserError: one number is no distribution that another could be compared with."""
        raise UserError(
            "config.objective.name = 'regression' predicts a number and no probabilities, so two models have no divergence "
            "(tune.distill, tune.smooth): leave their weights at 0"
        )

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `Classification`; the logits are [B, 1], the targets float32."""
        return sums_of(measures, model.logits(params, hidden_BTD), batch["targets"], self.weights(batch))


def _predicted(model: Any, params: Any, hidden_BTD: jax.Array) -> jax.Array:
    """float32 [B]."""
    return model.logits(params, hidden_BTD)[..., 0]
