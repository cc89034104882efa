"""How good an answer is: one number per answer, learned from pairs of which one answer is better."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.errors import UserError
from ptft_jax.model import heads
from ptft_jax.objectives import calibration
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored
from ptft_jax.objectives.token_loss import counted, weighted_sum


@dataclasses.dataclass(frozen=True)
class Reward(Rows):
    """The model of Bradley & Terry (1952), in which the better answer wins with probability sigmoid(r_chosen - r_rejected): the mean
    over pairs of -log sigmoid(r_chosen - r_rejected - margin), with margins as of Touvron et al. 2023 ("Llama 2", section 3.2.2).

    Attributes:
      center: weight of (r_chosen + r_rejected)^2, per pair: differences alone leave open where rewards lie, and this holds them near 0
        (Eisenstein et al. 2023, "Helping or Herding?", section 3).
    """

    center: float = 0.0

    # "nll" is of which answer is better, without margins.
    metrics: ClassVar[tuple[str, ...]] = ("loss", "nll", "accuracy", "margin", "chosen_reward", "rejected_reward")
    scores: ClassVar[tuple[str, ...]] = calibration.NAMES
    needs_parent: ClassVar[bool] = True  # what scores answers has to know what they say
    section: ClassVar[str] = ""
    informs: ClassVar[bool] = False  # of a row's pairs together, and of no targets that could be drawn

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by the last hidden states of its answers, [B, 2 P, D]; of the batch: weights float [B, P], of pairs, and
        margins float [B, P]."""
        pairs = self.weights(batch)
        rewards_BP2 = _rewards(model, params, hidden_BTD, pairs)
        chosen, rejected = rewards_BP2[..., 0], rewards_BP2[..., 1]
        apart = chosen - rejected
        values = {
            "loss": jax.nn.softplus(batch["margins"] - apart) + self.center * jnp.square(chosen + rejected),
            "nll": jax.nn.softplus(-apart),
            "accuracy": 0.5 * (1 + jnp.sign(apart)),  # a tie is half right
            "margin": apart,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
        }
        weight = jnp.sum(pairs)
        found = {name: (weighted_sum(values[name], pairs), weight) for name in self.metrics}
        return Loss(found["loss"][0], weight, found)

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """How sure the model is which answer is better, beside how often it is right."""
        pairs = self.weights(batch)
        rewards_BP2 = _rewards(model, params, hidden_BTD, pairs)
        return calibration.tables(jax.nn.sigmoid(rewards_BP2[..., 0] - rewards_BP2[..., 1]), pairs)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """Raises UserError, as of `Regression`."""
        raise UserError(
            "config.objective.name = 'reward' gives a number per answer and no probabilities, so two models have no divergence "
            "(tune.distill, tune.smooth): leave their weights at 0"
        )


def _rewards(model: Any, params: Any, hidden_BSD: jax.Array, pairs_BP: jax.Array) -> jax.Array:
    """float32 [B, P, 2]: of both answers of each pair, the better one first; 0 of pairs that are not there."""
    numbers_BS = heads.numbers(model, params, hidden_BSD)
    return counted(numbers_BS.reshape(len(numbers_BS), -1, 2), pairs_BP)
