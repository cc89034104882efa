"""Learning from pairs of answers of which one is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, Sum
from ptft_jax.objectives.kl import divergence
from ptft_jax.objectives.token_loss import counted, divergence_of, measured_of, summed, weighted_sum


class Answers(NamedTuple):
    """What is known of both answers of each pair of a batch, the better first. Of pairs that are not there it is made up, and
    finite.

    Attributes:
      log_probs: float32 [B, P, 2], nats; sums over an answer's tokens, each times what `Preference.log_weights` says.
      plain: the same, each token once.
      reference: as `log_probs`, by the reference model; zeros where there is none.
      lengths: float32 [B, P, 2], tokens that have loss.
      kl: float32 [B, P, 2], sums of KL(model || reference) over these tokens; None where the reference's logits are not at hand.
    """

    log_probs: jax.Array
    plain: jax.Array
    reference: jax.Array
    lengths: jax.Array
    kl: jax.Array | None

    @property
    def ratios(self) -> jax.Array:
        """float32 [B, P, 2]: log of the model's probability over the reference's."""
        return self.log_probs - self.reference

    @property
    def means(self) -> jax.Array:
        """float32 [B, P, 2]: the log-probability per token."""
        return self.log_probs / self.lengths


@dataclasses.dataclass(frozen=True)
class Preference(Rows):
    """A loss for each pair, which subclasses say; a batch's is the mean over its pairs, however they are packed or cut into
    micro-batches. What is said of a pair depends on no other.

    Attributes:
      sft: weight of the cross-entropy per token of the better answer, which is added to the loss of its pair.
      chunk: as of `TokenLoss`.
      precomputed: as of `Rows`.
    """

    sft: float = 0.0
    chunk: int = 0
    precomputed: bool = False

    needs_parent: ClassVar[bool] = True  # an answer is good or bad in the eyes of a model that can write
    settings: ClassVar[tuple[str, ...]] = ()  # of `config.objective.preference`, that are fields of the same name

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        """The objective of `config.objective`, which reads only the settings that matter to it. Raises UserError for settings that
        contradict each other."""
        return cls(**cls._given(section))

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        """The arguments that `settings` are; one that stands for the objective's own is left out."""
        values = {name: section.preference[name] for name in cls.settings}
        own = {"beta": 0, "sft": -1}
        return {"chunk": section.chunk} | {name: v for name, v in values.items() if own.get(name) != v}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics: per pair, but "nll", which is per token of the better answers."""
        compared: tuple[str, ...] = ("chosen_shift", "rejected_shift") if self.needs_reference else ()
        if self.needs_reference and not self.precomputed:
            compared += ("kl",)
        return (
            *("loss", "nll", "accuracy", "margin", "chosen_log_prob", "rejected_log_prob"),
            *(*compared, "chosen_tokens", "rejected_tokens"),
        )

    def pair_loss(self, answers: Answers) -> jax.Array:
        """The loss of each pair, float32 [B, P], without that of `sft`."""
        raise NotImplementedError

    def rewards(self, answers: Answers) -> jax.Array:
        """What the model takes both answers to be worth, float32 [B, P, 2]: "accuracy" and "margin" are of these."""
        raise NotImplementedError

    def log_weights(self, weights: jax.Array, own: jax.Array, lengths: jax.Array) -> jax.Array:
        """What the log-probability of each token weighs in its answer's, float32 [B, T], by default that of the batch.

        Args:
          weights: float32 [B, T].
          own: float32 [B, T, 2 P], 1 where a token is of an answer.
          lengths: float32 [B, 2 P], of the answers.
        """
        del own, lengths
        return weights

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: targets int [B, T], weights float [B, T], segments int
        [B, T] and pairs float [B, P], see `ptft_jax.data.builders.base.Builder.paired`."""
        pairs = self.weights(batch)
        answers = self._answers(model, (params, hidden_BTD), batch, context)
        nll = -answers.plain[..., 0]
        loss = self.pair_loss(answers)
        if self.sft:
            loss = loss + self.sft * nll / answers.lengths[..., 0]
        rewards = self.rewards(answers)
        apart = rewards[..., 0] - rewards[..., 1]
        values = {
            "loss": loss,
            "accuracy": 0.5 * (1 + jnp.sign(apart)),  # a tie is half right
            "margin": apart,
            **_sides("log_prob", answers.plain),
            **_sides("tokens", answers.lengths),
        }
        if self.needs_reference:
            values |= _sides("shift", answers.ratios)
        if answers.kl is not None:
            values["kl"] = jnp.sum(answers.kl, axis=-1) / jnp.sum(answers.lengths, axis=-1)
        weight = jnp.sum(pairs)
        found = {name: (weighted_sum(value, pairs), weight) for name, value in values.items()}
        found["nll"] = (weighted_sum(nll, pairs), weighted_sum(answers.lengths[..., 0], pairs))
        return Loss(found["loss"][0], weight, {name: found[name] for name in self.metrics})

    @property
    def live(self) -> Self:
        return dataclasses.replace(self, precomputed=False)

    def reference_of(self, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """ "reference": log-probabilities of both answers of each pair, float32 [B, P, 2], each token weighed as `log_weights` says."""
        return {"reference": self._scored(model, [(params, self.hidden(model, params, batch))], batch).log_probs}

    def _answers(self, model: Any, mine: Scored, batch: Batch, context: Context) -> Answers:
        scored = [mine]
        if self.needs_reference and not self.precomputed:
            if context.reference is None:
                raise ValueError(f"{type(self).__name__} compares a model with a reference, and the context has none")
            hidden = self.hidden(model, context.reference, batch)
            scored.append(jax.lax.stop_gradient((context.reference, hidden)))
        answers = self._scored(model, scored, batch)
        return answers._replace(reference=batch["reference"]) if self.precomputed else answers

    def _scored(self, model: Any, scored: Sequence[Scored], batch: Batch) -> Answers:
        """By the model, and by the reference where that is the second of `scored`."""
        weights, own = batch["weights"].astype(jnp.float32), of_answers(batch)
        lengths = _each(weights, own)
        logged = self.log_weights(weights, own, lengths)

        def score(
            targets: jax.Array, weights: jax.Array, logged: jax.Array, own: jax.Array, *hidden: jax.Array
        ) -> tuple[jax.Array, ...]:
            taken, logits = [], []
            for (params, _), states in zip(scored, hidden):
                logits.append(counted(model.logits(params, states), weights))
                log_z = jax.nn.logsumexp(logits[-1], axis=-1)
                taken.append(jnp.take_along_axis(logits[-1], targets[..., None], axis=-1)[..., 0] - log_z)
            values = [taken[0] * logged, taken[0] * weights]
            if len(scored) == 2:
                values += [taken[1] * logged, divergence(*map(jax.lax.stop_gradient, logits)) * weights]
            return tuple(_each(value, own) for value in values)

        arrays = (batch["targets"], weights, logged, own, *(hidden for _, hidden in scored))
        there = self.weights(batch)[..., None] > 0
        shape = (*batch["pairs"].shape, 2)
        lengths = jnp.where(there, lengths.reshape(shape), 1.0)
        # An answer that is not there has a log-probability that no loss takes the logarithm of 0 of.
        sums = summed(self.chunk, score, *arrays, parts=model.context_parts)
        found = [jnp.where(there, value.reshape(shape), -1.0) for value in sums]
        reference, kl = found[2:] if len(scored) == 2 else (jnp.zeros(shape), None)
        return Answers(found[0], found[1], reference, lengths, kl)

    def remarks(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
        """Says where the better answers became less probable: a preference is learned by that, too (Pal et al. 2024; Razin et al.
        2024, "Unintentional unalignment"). Of each validation set; of answers that the model wrote, which are none, by what
        training measured of them against the reference, "training/chosen_shift"."""
        fallen = []
        for name, now in after.items():
            measured, _, metric = name.rpartition("/")
            if metric == "chosen_log_prob" and measured.startswith("validation") and now < before.get(name, -jnp.inf):
                margins = f"{measured}/margin went from {before.get(f'{measured}/margin', 0.0):.4g} to {after.get(f'{measured}/margin', 0.0):.4g}"
                fallen.append(f"{name} went from {before[name]:.4g} to {now:.4g} nats per answer, while {margins}")
        shift = after.get("training/chosen_shift", 0.0)
        if shift < 0 and not any(name.endswith("/chosen_log_prob") for name in before):
            margin = after.get("training/margin", 0.0)
            fallen.append(
                f"training/chosen_shift is {shift:.4g} nats per answer, while training/margin is {margin:.4g}"
            )
        advice = "a lower rate, or weight on objective.preference.sft, counters that"
        return [f"the better answers became less probable: {what}; {advice}" for what in fallen]

    def weights(self, batch: Batch) -> jax.Array:
        """What each pair weighs in the loss, float32 [B, P]."""
        return batch["pairs"].astype(jnp.float32)

    def nll_weight(self, batch: Batch) -> jax.Array:
        """As of `Rows`: the tokens of the better answers."""
        return jnp.sum(_of_chosen(batch))

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, the sum over pairs of the mean over the tokens of both answers."""
        tokens, pairs = batch["weights"].astype(jnp.float32), self.weights(batch)
        own = of_answers(batch)
        own = own.reshape(*own.shape[:2], -1, 2).sum(axis=-1)  # 1 where a token is of a pair
        share = spread(pairs / jnp.maximum(_each(tokens, own), 1.0), own) * tokens
        return divergence_of(self.chunk, model, first, second, share, measure)

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `TokenLoss`, of the tokens of the better answers."""
        return measured_of(self.chunk, model, (params, hidden_BTD), batch["targets"], _of_chosen(batch), measures)


def of_answers(batch: Batch) -> jax.Array:
    """float32 [B, T, 2 P]: 1 where a token is of an answer."""
    return (batch["segments"][..., None] == jnp.arange(1, 2 * batch["pairs"].shape[1] + 1)).astype(jnp.float32)


def _of_chosen(batch: Batch) -> jax.Array:
    """float32 [B, T]: what the tokens of the better answers weigh, and 0 elsewhere."""
    return batch["weights"].astype(jnp.float32) * (batch["segments"] % 2 == 1)


# Sums of products, and no matrix products: accelerators round what these multiply.


def _each(values: jax.Array, own: jax.Array) -> jax.Array:
    """[B, S]: of values [B, T] the sum over the tokens of each answer; own [B, T, S]."""
    return jnp.sum(values[..., None] * own, axis=1)


def spread(values: jax.Array, own: jax.Array) -> jax.Array:
    """[B, T]: of values [B, S] that of each token's answer, 0 where it is of none."""
    return jnp.sum(values[:, None, :] * own, axis=-1)


def _sides(what: str, values: jax.Array) -> dict[str, jax.Array]:
    return {f"chosen_{what}": values[..., 0], f"rejected_{what}": values[..., 1]}
