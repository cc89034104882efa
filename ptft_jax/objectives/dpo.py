"""Preferences by how the model differs from a reference, the one that it started as."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.objectives import pair_losses
from ptft_jax.objectives.preference import Answers, Preference, spread


@dataclasses.dataclass(frozen=True)
class DPO(Preference):
    """Direct preference optimization (Rafailov et al. 2023): the reward of an answer is beta times the log of the model's
    probability of it over the reference's, the parent's.

    Attributes:
      beta: how hard the model is held near the reference.
      link: the loss of the two rewards, one of `pair_losses.LOSSES`.
      divergence_from: what the model is held near the reference by, one of `pair_losses.DIVERGENCES`; `alpha` is of "alpha".
      label_noise: share of the pairs that are taken to be labeled the wrong way round.
      normalize: log-probabilities per token, in place of an answer's sum.
      tail_weight: what the tokens of the longer answer weigh that come after the length of the shorter (Liu et al. 2024, LD-DPO,
        equation 11); 1 = as the others.
      keep_chosen: weight of how far the better answer's log-probability is below the reference's, taken off the rewards'
        difference (Pal et al. 2024, "Smaug", equation 3, DPOP).
    """

    beta: float = 0.1
    link: str = "sigmoid"
    divergence_from: str = "reverse_kl"
    alpha: float = 0.5
    label_noise: float = 0.0
    normalize: bool = False
    tail_weight: float = 1.0
    keep_chosen: float = 0.0

    needs_reference: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("sft", "beta", "normalize", "tail_weight", "keep_chosen")

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        own = section.preference
        given = super()._given(section) | {"link": own.loss, "divergence_from": own.divergence}
        if own.divergence == "alpha":
            given["alpha"] = own.alpha
        if own.loss in pair_losses.NOISY:
            given["label_noise"] = own.label_noise
        if own.loss in ("robust", "exo") and not own.label_noise:
            raise UserError(
                f"config.objective.preference.label_noise = 0: preference.loss = {own.loss!r} is about labels that may be wrong: expected "
                "a share above 0, such as 0.1"
            )
        return given | {"precomputed": own.precompute}

    def rewards(self, answers: Answers) -> jax.Array:
        shifted = pair_losses.DIVERGENCES[self.divergence_from](answers.ratios, self.alpha)
        return self.beta * (shifted / answers.lengths if self.normalize else shifted)

    def pair_loss(self, answers: Answers) -> jax.Array:
        rewards = self.rewards(answers)
        chosen, rejected = rewards[..., 0], rewards[..., 1]
        if self.keep_chosen:
            below = jax.nn.relu(-answers.ratios[..., 0])
            below = below / answers.lengths[..., 0] if self.normalize else below
            chosen = chosen - self.beta * self.keep_chosen * below
        return pair_losses.LOSSES[self.link](chosen, rejected, self.label_noise)

    def log_weights(self, weights: jax.Array, own: jax.Array, lengths: jax.Array) -> jax.Array:
        if self.tail_weight == 1:
            return weights
        before = jnp.cumsum(lengths, axis=-1) - lengths  # tokens with loss in the segments before each
        rank = jnp.cumsum(weights, axis=-1) - spread(before, own)
        shared = jnp.repeat(lengths.reshape(*lengths.shape[:1], -1, 2).min(axis=-1), 2, axis=-1)
        tail = rank > spread(shared, own)
        return jnp.where(tail, self.tail_weight, 1.0) * weights


@dataclasses.dataclass(frozen=True)
class IPO(Preference):
    """(d - 1 / (2 beta))^2, d the difference of the log-ratios per token of both answers (Azar et al. 2024, equation 17; per token
    as its authors' results were, which the paper does not say)."""

    beta: float = 0.1

    needs_reference: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("sft", "beta")

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        return super()._given(section) | {"precomputed": section.preference.precompute}

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * answers.ratios / answers.lengths

    def pair_loss(self, answers: Answers) -> jax.Array:
        ratios = answers.ratios / answers.lengths
        return jnp.square(ratios[..., 0] - ratios[..., 1] - 1 / (2 * self.beta))
