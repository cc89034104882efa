"""Learning from answers of which each is good or bad, by how the model differs from a reference."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Scored, Sum
from ptft_jax.objectives.preference import Answers, Preference, of_answers, spread
from ptft_jax.objectives.token_loss import measured_of, weighted_sum


@dataclasses.dataclass(frozen=True)
class KTO(Preference):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, equations 7 and 8): of an answer with log-ratio r, the log of the model's
    probability of it over the reference's,

      desirable * (1 - s(beta (r - z)))  where it is good,  undesirable * (1 - s(beta (z - r)))  where it is bad,

    s the logistic function. z = max(0, the mean of r over answers to other prompts) estimates how far the model is from the reference;
    it is that of the whole batch, and a constant in the gradient; 0 where a batch has no such answer. The loss of a batch is the mean over its answers.

    Rows hold, as pairs, each answer and another's answer to its prompt (`ptft_jax.data.builders.rated.Rated`).

    Attributes:
      beta: as of `DPO`.
      desirable, undesirable: weights of good and bad answers; the paper has (desirable * good answers) / (undesirable * bad answers)
        between 1 and 3/2 (its section 4.2).
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    needs_reference: ClassVar[bool] = True
    gathers: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("beta", "desirable", "undesirable")

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        return super()._given(section) | {"precomputed": section.preference.precompute}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics: per answer, but "nll", which is per token of the good ones; "reference_point" is z."""
        return ("loss", "nll", "accuracy", "margin", "reference_point", "log_prob", "shift", "answer_tokens")

    def gathered(self, model: Any, mine: Scored, batch: Batch, context: Context) -> Sum:
        """The sum of the log-ratios of answers to other prompts, and how many there are."""
        return self._apart(self._answers(model, mine, batch, context), batch)

    def _apart(self, answers: Answers, batch: Batch) -> Sum:
        there = self.weights(batch) * (answers.lengths[..., 1] > 0)  # an answer may have no other beside it
        return weighted_sum(answers.ratios[..., 1], there), jnp.sum(there)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """As of `Preference`, with labels float [B, P] of the batch, 1 of good answers and -1 of bad ones."""
        there, side = self.weights(batch), batch["labels"]
        answers = self._answers(model, (params, hidden_BTD), batch, context)
        total, count = self._apart(answers, batch) if context.whole is None else context.whole
        point = jax.lax.stop_gradient(jax.nn.relu(total / jnp.maximum(count, 1.0)))
        ratio, good = answers.ratios[..., 0], jnp.where(side > 0, there, 0.0)
        margin = side * self.beta * (ratio - point)
        weighed = jnp.where(side > 0, self.desirable, self.undesirable)
        weight = jnp.sum(there)
        values = {
            "loss": weighed * jax.nn.sigmoid(-margin),
            "accuracy": 0.5 * (1 + jnp.sign(margin)),  # a tie is half right
            "margin": margin,
            "log_prob": answers.plain[..., 0],
            "shift": ratio,
            "answer_tokens": answers.lengths[..., 0],
        }
        found = {name: (weighted_sum(value, there), weight) for name, value in values.items()}
        found["reference_point"] = (point * weight, weight)
        found["nll"] = (
            weighted_sum(-answers.plain[..., 0], good),
            weighted_sum(answers.lengths[..., 0], good),
        )
        return Loss(found["loss"][0], weight, {name: found[name] for name in self.metrics})

    @property
    def alone(self) -> Any:
        return GoodAnswers(chunk=self.chunk)

    def nll_weight(self, batch: Batch) -> jax.Array:
        """As of `Rows`: the tokens of the good answers."""
        return jnp.sum(_of_good(batch))

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `Preference`, of the tokens of the answers themselves, not of others to their prompts."""
        own = (batch["segments"] % 2 == 1).astype(jnp.float32)
        return super().divergence(model, first, second, {**batch, "weights": batch["weights"] * own}, measure)

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `TokenLoss`, of the tokens of the good answers."""
        return measured_of(self.chunk, model, (params, hidden_BTD), batch["targets"], _of_good(batch), measures)


@dataclasses.dataclass(frozen=True)
class GoodAnswers(KTO):
    """The cross-entropy per token of the good answers of such rows: what of `KTO` needs no reference."""

    needs_reference: ClassVar[bool] = False
    gathers: ClassVar[bool] = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss", "nll")

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """As of `KTO`."""
        answers = self._answers(model, (params, hidden_BTD), batch, context)
        good = jnp.where(batch["labels"] > 0, self.weights(batch), 0.0)
        found = weighted_sum(-answers.plain[..., 0], good), weighted_sum(answers.lengths[..., 0], good)
        return Loss(*found, {name: found for name in self.metrics})


def _of_good(batch: Batch) -> jax.Array:
    """float32 [B, T]: what the tokens of good answers weigh, and 0 elsewhere."""
    good = jnp.where((batch["labels"] > 0) & (batch["pairs"] > 0), 1.0, 0.0)
    sides = jnp.stack([good, jnp.zeros_like(good)], axis=-1).reshape(good.shape[0], -1)
    return batch["weights"].astype(jnp.float32) * spread(sides, of_answers(batch))
