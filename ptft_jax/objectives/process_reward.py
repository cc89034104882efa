"""Whether each step of an answer is right: one number per step, learned from steps with labels."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.model import heads
from ptft_jax.objectives import calibration
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored
from ptft_jax.objectives.token_loss import weighted_sum


@dataclasses.dataclass(frozen=True)
class ProcessReward(Rows):
    """The binary cross-entropy of each step's label (Lightman et al. 2023, "Let's Verify Step by Step", section 2.6; Uesato et al. 2022): a
    step is right with probability sigmoid of the number that is read off the token that ends it. The mean over all steps, as of TRL's
    `PRMTrainer`, whose two classes have the logits 0 and this number here.

    Batches say where steps end: weights float [B, T]; and which of them are right: `right`, bool [B, T].
    """

    # "right_score", "wrong_score": the mean probability that right steps are given, and wrong ones.
    metrics: ClassVar[tuple[str, ...]] = ("loss", "nll", "accuracy", "right_score", "wrong_score")
    scores: ClassVar[tuple[str, ...]] = calibration.NAMES
    needs_parent: ClassVar[bool] = True  # what scores answers has to know what they say
    section: ClassVar[str] = ""
    informs: ClassVar[bool] = False  # of no targets that could be drawn

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states."""
        weights, right = self.weights(batch), batch["right"]
        numbers = _numbers(model, params, hidden_BTD, weights)
        toward = jnp.where(right, numbers, -numbers)
        total, weight = weighted_sum(jax.nn.softplus(-toward), weights), jnp.sum(weights)
        chance = jax.nn.sigmoid(numbers)
        correct = 0.5 * (1 + jnp.sign(toward))  # undecided is half right
        good, bad = jnp.where(right, weights, 0.0), jnp.where(right, 0.0, weights)
        found = {
            "loss": (total, weight),
            "nll": (total, weight),
            "accuracy": (weighted_sum(correct, weights), weight),
            "right_score": (weighted_sum(chance, good), jnp.sum(good)),
            "wrong_score": (weighted_sum(chance, bad), jnp.sum(bad)),
        }
        return Loss(total, weight, found)

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """How sure the model is of each step, beside how often it is right of it."""
        weights = self.weights(batch)
        numbers = _numbers(model, params, hidden_BTD, weights)
        return calibration.tables(jax.nn.sigmoid(jnp.where(batch["right"], numbers, -numbers)), weights)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, of the two classes of each step."""
        weights = self.weights(batch)
        one, two = (_numbers(model, params, hidden, weights) for params, hidden in (first, second))
        return weighted_sum(measure(_classes(one), _classes(two)), weights)


def _numbers(model: Any, params: Any, hidden_BTD: jax.Array, weights_BT: jax.Array) -> jax.Array:
    """float32 [B, T]: of each position that ends a step; 0 elsewhere."""
    return jnp.where(weights_BT > 0, heads.numbers(model, params, hidden_BTD), 0.0)


def _classes(numbers: jax.Array) -> jax.Array:
    """float32 [..., 2]: logits of wrong and right."""
    return jnp.stack([jnp.zeros_like(numbers), numbers], axis=-1)
