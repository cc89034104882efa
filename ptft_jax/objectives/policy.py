"""Learning from rewards of what the model itself writes: policy gradients of sampled answers."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Sum
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.token_loss import counted, mapped, weighted_sum

_LEAST = 1e-4  # is added to a standard deviation that is divided by
# What is said of each answer of a batch, float32 [B]; their means are metrics of the step.
FACTS = ("reward", "reward_std", "alike", "ended", "unscored")
ASKED = ("rounds", "alike_asked")  # likewise, where prompts may be drawn again
# Likewise where several reward models score answers: their standard deviation; of how many pairs (of answers, of models) both models
# prefer the same answer, and of how many both prefer one.
MEMBERS = ("spread", "agreeing", "compared")
# Likewise where tools may be called: how often, how many of these calls failed, and of how many the result was cut; whether the answer ended
# at a call that nobody answered.
CALLS = ("calls", "failed_calls", "cut_results", "unanswered")


class Tokens(NamedTuple):
    """What a model makes of each target, float32 [B, T]: its log-probability, and the entropy of what it predicts, in nats."""

    log_probs: jax.Array
    entropy: jax.Array


@dataclasses.dataclass(frozen=True)
class Policy(CausalLM):
    """A policy gradient of answers that were sampled, by their advantages.

    With r the probability of a token (or an answer, see `ratio`) over that with which it was sampled, and A its (or its answer's) advantage,
    the loss is -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) (Schulman et al. 2017, equation 7), averaged as `average` says. In
    evaluation it is the cross-entropy of the right answers.

    Probabilities are those of the distribution that was sampled from: at `temperature`, and where it was truncated (top-k, top-p, min-p)
    of the tokens that were left, which a batch says.

    Attributes:
      ratio: "token"; "sequence": the geometric mean of an answer's (Zheng et al. 2025, GSPO, equation 7); "product": that of all its tokens.
      average: "sequence": the mean over answers of the mean over tokens (Shao et al. 2024, GRPO, equation 3); "token": the mean over all
        tokens (Yu et al. 2025, DAPO, equation 8); "constant": the mean over answers of the sum over tokens / `limit` (Liu et al. 2025,
        Dr. GRPO).
      limit: the most tokens of an answer.
      clip_low, clip_high: how far below and above 1 a ratio has a gradient; 0 = however far.
      kl: weight of the divergence from the reference; 0 = none.
      kl_estimator: of log-probabilities p, and q of the reference (Schulman 2020, "Approximating KL Divergence"): "k2" (p - q)^2 / 2 and
        "k3" exp(q - p) - 1 - (q - p), terms of each token's loss; "k1" the sum over an answer of p - q, which is taken off its reward
        before advantages are taken (and is not divided by what advantages are). As a term of the loss it would have no gradient in
        expectation.
      temperature: that answers were sampled at.
    """

    ratio: str = "token"
    average: str = "sequence"
    limit: int = 1
    clip_low: float = 0.0
    clip_high: float = 0.0
    kl: float = 0.0
    kl_estimator: str = "k3"
    temperature: float = 1.0

    needs_parent: ClassVar[bool] = True  # what no answer is right of, nothing is learned from
    section: ClassVar[str] = "policy"
    least: ClassVar[int] = 1  # answers per prompt
    own_ratio: ClassVar[str] = "product"

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        """The objective of `config.objective`, which reads only the settings that matter to it. Raises UserError for settings that
        contradict each other."""
        return cls(**cls._given(section))

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        p = section.policy
        given: dict[str, Any] = {
            "chunk": section.chunk,
            "temperature": p.temperature,
            "limit": p.max_new_tokens,
            "kl": p.kl,
        }
        given["ratio"] = cls.own_ratio if p.ratio == "own" else p.ratio
        if given["ratio"] != "product":  # whose gradient is that of the sum over an answer's tokens already
            given["average"] = p.average
        if p.samples < cls.least:
            raise UserError(
                f"config.objective.policy.samples = {p.samples}: {section.name} compares the answers to a prompt: expected {cls.least} or more"
            )
        if p.updates > 1:  # else the model is the one that wrote the answers
            given |= {"clip_low": p.clip_low, "clip_high": p.clip_high}
        return given | ({"kl_estimator": p.kl_estimator} if p.kl else {})

    @property
    def compares(self) -> bool:
        """Whether the loss compares the model with the reference at each step."""
        return bool(self.kl) and self.kl_estimator != "k1"

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """As of `Rows`."""
        return bool(self.kl)

    @property
    def live(self) -> Self:
        """Without `kl`, which is of sampled answers: other rows are right ones."""
        return dataclasses.replace(self, kl=0.0)

    def scored(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> Tokens:
        """Of the targets of a batch of answers, by the last hidden states; 0 where there is none."""
        support = batch.get("support")

        def score(hidden: jax.Array, targets: jax.Array, weights: jax.Array, *support: jax.Array) -> Tokens:
            logits = counted(model.logits(params, hidden).astype(jnp.float32), weights) / self.temperature
            there = jnp.ones((), bool)
            if support:
                bits = jnp.unpackbits(support[0], axis=-1, count=logits.shape[-1], bitorder="little")
                there = bits.astype(bool) | (weights == 0)[..., None]
                logits = jnp.where(there, logits, -jnp.inf)
            log_z = jax.nn.logsumexp(logits, axis=-1)
            taken = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - log_z
            still = jax.lax.stop_gradient(logits)
            shares = jax.nn.softmax(still, axis=-1)
            entropy = jax.lax.stop_gradient(log_z) - jnp.sum(jnp.where(there, shares * still, 0.0), axis=-1)
            return Tokens(jnp.where(weights > 0, taken, 0.0), jnp.where(weights > 0, entropy, 0.0))

        weights = batch["weights"].astype(jnp.float32)
        given = () if support is None else (support,)
        return mapped(self.chunk, score, hidden_BTD, batch["targets"], weights, *given, parts=model.context_parts)

    def by_reference(self, model: Any, params: Any, batch: Batch) -> jax.Array:
        """Log-probabilities float32 [B, T] of the tokens of answers by the reference, whose parameters these are."""
        return self.scored(model, params, self.hidden(model, params, batch), batch).log_probs

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states.

        Of answers the batch has targets int [B, T]; weights float [B, T], 1 for the tokens of an answer; sampled float32 [B, T], their
        log-probabilities as they were sampled; advantages float32 [B], or [B, T] of tokens; counts float32 [B], 0 for answers that are dropped; `FACTS`; where
        sampling was truncated, support uint8 [B, T, V / 8], bits of the tokens that were left, and with `kl_estimator` "k1" kl float32
        [B]. Without advantages it is evaluated: see `TokenLoss`.
        """
        if "advantages" not in batch:
            return super().loss_of(model, params, hidden_BTD, batch, context)
        mask = batch["weights"].astype(jnp.float32)
        found = self.scored(model, params, hidden_BTD, batch)
        moved = (found.log_probs - batch["sampled"]) * mask
        ratio = jnp.exp(self._log_ratio(moved, mask))
        advantage = batch["advantages"]
        advantage = advantage if advantage.ndim > 1 else advantage[:, None]
        low = 1 - self.clip_low if self.clip_low else 0.0
        high = 1 + self.clip_high if self.clip_high else jnp.inf
        plain, clipped = -ratio * advantage, -jnp.clip(ratio, low, high) * advantage
        loss = jnp.maximum(plain, clipped)
        tokens, answers = jnp.sum(mask), jnp.asarray(float(mask.shape[0]), jnp.float32)
        metrics = {"answer_tokens": (tokens, answers)}
        if self.compares:
            kl = self._divergence(model, found.log_probs, batch, context)
            loss = loss + self.kl * kl
            metrics["kl"] = (weighted_sum(kl, mask), tokens)
        elif self.kl:
            metrics["kl"] = (jnp.sum(batch["kl"]), tokens)
        weights = self.weights(batch)
        more, told = self.beside(model, params, hidden_BTD, batch)
        loss, metrics = loss + more, metrics | told
        total, weight = weighted_sum(jnp.broadcast_to(loss, mask.shape), weights), self.weight(batch)

        def of_tokens(values: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.lax.stop_gradient(weighted_sum(jnp.broadcast_to(values, mask.shape), mask)), tokens

        metrics |= {
            "loss": (total, weight),
            **{name: (jnp.sum(batch[name]), answers) for name in (*FACTS, *ASKED) if name in batch},
            "reward": (jnp.sum(batch["reward"]), answers - jnp.sum(batch["unscored"])),
            "ratio": of_tokens(ratio),
            "mismatch": of_tokens(jnp.abs(moved)),
            "clipped": of_tokens((clipped > plain).astype(jnp.float32)),
            "entropy": of_tokens(found.entropy),
            **of_members(batch),
            **of_calls(batch),
        }
        return Loss(total, weight, metrics)

    def beside(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch
    ) -> tuple[jax.Array | float, dict[str, Sum]]:
        """What else the loss of each token has, [B, T], and its metrics; by default nothing."""
        return 0.0, {}

    def _log_ratio(self, moved: jax.Array, mask: jax.Array) -> jax.Array:
        """float32 [B, T] or [B, 1], of differences of log-probabilities [B, T]."""
        if self.ratio == "token":
            return moved
        whole = jnp.sum(moved, axis=1, keepdims=True)
        return whole if self.ratio == "product" else whole / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0)

    def _divergence(self, model: Any, log_probs: jax.Array, batch: Batch, context: Context) -> jax.Array:
        """The estimate of each token, float32 [B, T]."""
        if context.reference is None:
            raise ValueError(f"{type(self).__name__} compares a model with a reference, and the context has none")
        behind = jax.lax.stop_gradient(self.by_reference(model, context.reference, batch)) - log_probs
        return jnp.square(behind) / 2 if self.kl_estimator == "k2" else jnp.expm1(behind) - behind

    def weights(self, batch: Batch) -> jax.Array:
        """As of `Rows`, float32 [B, T]."""
        if "advantages" not in batch:
            return super().weights(batch)
        mask = batch["weights"].astype(jnp.float32)
        counts = mask * batch["counts"][:, None]
        if self.average == "sequence":
            return counts / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0)
        return counts / self.limit if self.average == "constant" else counts

    def weight(self, batch: Batch) -> jax.Array:
        """As of `Rows`: the number of answers that count, or of their tokens."""
        if "advantages" not in batch or self.average == "token":
            return jnp.sum(self.weights(batch))
        return jnp.sum(batch["counts"])


def of_members(batch: Batch) -> dict[str, Sum]:
    """The metrics of a batch that has `MEMBERS`: the mean deviation over answers that have a score, and the share of pairs."""
    if "spread" not in batch:
        return {}
    spread, agreeing, compared, unscored = (jnp.sum(batch[name]) for name in (*MEMBERS, "unscored"))
    return {"member_spread": (spread, len(batch["spread"]) - unscored), "member_agreement": (agreeing, compared)}


def of_calls(batch: Batch) -> dict[str, Sum]:
    """The metrics of a batch that has `CALLS`: calls per answer, the shares of calls, and the share of answers."""
    if "calls" not in batch:
        return {}
    calls, *of_them, unanswered = (jnp.sum(batch[name]) for name in CALLS)
    answers = jnp.asarray(float(len(batch["calls"])), jnp.float32)
    shares = {name: (value, calls) for name, value in zip(CALLS[1:3], of_them)}
    return {"calls": (calls, answers), **shares, "unanswered": (unanswered, answers)}


class Comparing(Policy, abc.ABC):
    """A policy gradient by the advantage of each answer over others."""

    @abc.abstractmethod
    def advantages(
        self, rewards: np.ndarray, held: np.ndarray | float = 0.0, known: np.ndarray | None = None
    ) -> np.ndarray:
        """By how much each answer is better than others, float64 [prompts, samples], by rewards of that shape, from which `held`, what
        holds answers near the reference, is taken; 0 where `known` is 0, of answers without a reward, which others are not compared with."""


@dataclasses.dataclass(frozen=True)
class GRPO(Comparing):
    """Group relative policy optimization (Shao et al. 2024, section 4.1): the advantage is the reward less the mean of those of the
    answers to the same prompt.

    Attributes:
      scale: what that is divided by: "group" the standard deviation of the same rewards, "batch" of all, or "none" (Liu et al. 2025,
        Dr. GRPO). It is that of samples, as TRL's, divided by one less than their number.
    """

    scale: str = "group"

    least: ClassVar[int] = 2
    own_ratio: ClassVar[str] = "token"

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        return super()._given(section) | {"scale": section.policy.scale}

    def advantages(
        self, rewards: np.ndarray, held: np.ndarray | float = 0.0, known: np.ndarray | None = None
    ) -> np.ndarray:
        known = 1 + 0 * rewards if known is None else known
        ahead, held = rewards - mean(rewards, known, 1), held + 0 * rewards
        if self.scale != "none":
            # Only rewards are divided: where all are alike, what holds would be blown up to their size, whatever its weight.
            ahead = ahead / (deviation(rewards, known, None if self.scale == "batch" else 1) + _LEAST)
        return (ahead - (held - mean(held, known, 1))) * known


@dataclasses.dataclass(frozen=True)
class RLOO(Comparing):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, section 3): the reward less the mean of the other answers to the same prompt."""

    least: ClassVar[int] = 2

    def advantages(
        self, rewards: np.ndarray, held: np.ndarray | float = 0.0, known: np.ndarray | None = None
    ) -> np.ndarray:
        return _less_others(rewards - held, known, 1)


@dataclasses.dataclass(frozen=True)
class Reinforce(Comparing):
    """REINFORCE (Williams 1992) with a baseline: the reward less the mean of all other answers of the step."""

    def advantages(
        self, rewards: np.ndarray, held: np.ndarray | float = 0.0, known: np.ndarray | None = None
    ) -> np.ndarray:
        return _less_others(rewards - held, known, None)


def mean(values: np.ndarray, known: np.ndarray, axis: int | None) -> np.ndarray:
    """Of those values that are `known` (1, else 0) along an axis, which stays; 0 of none."""
    count = known.sum(axis=axis, keepdims=True)
    return (known * values).sum(axis=axis, keepdims=True) / (count + (count == 0))


def deviation(values: np.ndarray, known: np.ndarray, axis: int | None) -> np.ndarray:
    """Likewise the standard deviation, of a sample; 0 of one."""
    count = known.sum(axis=axis, keepdims=True)
    squares = known * (values - mean(values, known, axis)) ** 2
    return (squares.sum(axis=axis, keepdims=True) / (count - 1 + 2 * (count < 2))) ** 0.5


def _less_others(rewards: np.ndarray, known: np.ndarray | None, axis: int | None) -> np.ndarray:
    """Rewards less the mean of the others along an axis; 0 where there are none."""
    known = 1 + 0 * rewards if known is None else known
    others = known.sum(axis=axis, keepdims=True) - 1
    total = (known * rewards).sum(axis=axis, keepdims=True)
    return (rewards - (total - rewards) / (others + 2 * (others < 1))) * known * (others > 0)
