"""Preferences by the model's own probabilities, without a reference."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.objectives import pair_losses
from ptft_jax.objectives.preference import Answers, Preference


@dataclasses.dataclass(frozen=True)
class SimPO(Preference):
    """-log s(beta (a - b) - margin), a and b the log-probabilities per token (Meng et al. 2024, equation 6). Without a reference."""

    beta: float = 2.0
    margin: float = 1.0

    settings: ClassVar[tuple[str, ...]] = ("sft", "beta", "margin")

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * answers.means

    def pair_loss(self, answers: Answers) -> jax.Array:
        rewards = self.rewards(answers)
        return -jax.nn.log_sigmoid(rewards[..., 0] - rewards[..., 1] - self.margin)


@dataclasses.dataclass(frozen=True)
class CPO(Preference):
    """-log s(beta (log p(chosen) - log p(rejected))), with `sft` (Xu et al. 2024, equation 6). Without a reference."""

    sft: float = 1.0
    beta: float = 0.1
    label_noise: float = 0.0

    settings: ClassVar[tuple[str, ...]] = ("sft", "beta", "label_noise")

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * answers.log_probs

    def pair_loss(self, answers: Answers) -> jax.Array:
        rewards = self.rewards(answers)
        return pair_losses.sigmoid(rewards[..., 0], rewards[..., 1], self.label_noise)


@dataclasses.dataclass(frozen=True)
class ORPO(Preference):
    """The cross-entropy per token of the better answer, and beta * -log s(log-odds of it - log-odds of the worse), odds = p / (1 - p)
    of the probability per token p (Hong et al. 2024, equations 6 and 7). Without a reference."""

    sft: float = 1.0
    beta: float = 0.1

    settings: ClassVar[tuple[str, ...]] = ("beta",)

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * answers.means

    def pair_loss(self, answers: Answers) -> jax.Array:
        # log(1 - p) without the cancellation where p is near 1; p = 1 has infinite odds, and float32 reaches it.
        means = jnp.minimum(answers.means, -1e-7)
        odds = means - jnp.log(-jnp.expm1(means))
        return -self.beta * jax.nn.log_sigmoid(odds[..., 0] - odds[..., 1])


@dataclasses.dataclass(frozen=True)
class SLiC(Preference):
    """max(0, margin - log p(chosen) + log p(rejected)), with `sft` (Zhao et al. 2023, equation 1). Without a reference."""

    sft: float = 0.1
    margin: float = 1.0

    settings: ClassVar[tuple[str, ...]] = ("sft", "margin")

    def rewards(self, answers: Answers) -> jax.Array:
        return answers.log_probs

    def pair_loss(self, answers: Answers) -> jax.Array:
        return jax.nn.relu(self.margin - answers.log_probs[..., 0] + answers.log_probs[..., 1])


@dataclasses.dataclass(frozen=True)
class RRHF(Preference):
    """max(0, b - a), a and b the log-probabilities per token of the better and the worse answer, with `sft` (Yuan et al. 2023, equations 2 to
    4; its cross-entropy is a sum over tokens, this one a mean). The ranking of several answers is the sum over their pairs. Without a
    reference."""

    sft: float = 1.0

    settings: ClassVar[tuple[str, ...]] = ("sft",)

    def rewards(self, answers: Answers) -> jax.Array:
        return answers.means

    def pair_loss(self, answers: Answers) -> jax.Array:
        return jax.nn.relu(answers.means[..., 1] - answers.means[..., 0])
