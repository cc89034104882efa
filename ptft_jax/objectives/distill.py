"""Learning what a teacher predicts, beside what the data say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.token_loss import TokenLoss, counted, mapped, summed, weighted_sum

# Of batches: what the teacher makes of each target.
LOG_PROBS, IDS = "teacher_log_probs", "teacher_ids"


@dataclasses.dataclass(frozen=True)
class Distill(TokenLoss):
    """data_weight * cross-entropy of the data's targets + (1 - data_weight) * temperature^2 * D, per target, D between the teacher's
    prediction p and the model's q, both with logits divided by `temperature` (Hinton et al. 2015, section 2).

    p is kept as the log-probabilities of its `top` most probable tokens, and that of all others together. D is taken over these
    top + 1 events, so it is at most that over the vocabulary: how the two share out the other tokens is not compared. It is the same where
    `top` is 0, for all tokens.

    Attributes:
      divergence_from: "forward_kl", KL(p || q); "reverse_kl", KL(q || p); "jensen_shannon", beta KL(p || m) + (1 - beta) KL(q || m) with
        m = beta p + (1 - beta) q (Agarwal et al. 2024, "On-Policy Distillation", equation 1).
      beta: of "jensen_shannon".
      precomputed: as of `ptft_jax.objectives.base.Rows`: batches have `teacher_log_probs` float32 [B, T, top + 1] and `teacher_ids`
        uint16 or int32 [B, T, top], the most probable first; of all tokens `teacher_log_probs` [B, T, V] alone.
    """

    top: int = 0
    divergence_from: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    data_weight: float = 0.5
    precomputed: bool = True

    chained: ClassVar[bool] = True

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self | SelfDistill:
        """The objective of `config.objective`, which reads only the settings that matter to it. Raises UserError where nothing would
        be learned."""
        own, given = section.distill, cls.given(section)
        given["data_weight"] = own.data_weight
        if own.teacher:
            return cls(**given)
        if not own.data_weight:
            raise UserError(
                "config.objective.distill.data_weight = 0: the run starts as its own teacher, the parent, and learns nothing from it alone: "
                "name another (objective.distill.teacher), or give the data's targets a weight"
            )
        return SelfDistill(**given)

    @staticmethod
    def given(section: ObjectiveOptions) -> dict[str, Any]:
        """The arguments that `config.objective` has, but for what is not of the teacher."""
        own = section.distill
        found: dict[str, Any] = {"top": own.top, "temperature": own.temperature, "chunk": section.chunk}
        found["divergence_from"] = own.divergence
        return found | ({"beta": own.beta} if own.divergence == "jensen_shannon" else {})

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics: "kl" is KL(p || q) whatever is learned, "agreement" the share of targets where the teacher's and
        the model's most probable tokens are one, "teacher_mass" what the teacher's `top` tokens have of its probability."""
        return ("loss", "nll", "accuracy", "kl", "agreement", "teacher_mass")

    @property
    def live(self) -> CausalLM:
        return CausalLM(chunk=self.chunk)

    def reference_of(self, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """What the teacher predicts at each target, see `precomputed`; at positions that have none, something finite."""

        def predicted(hidden_BTD: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
            logits = counted(model.logits(params, hidden_BTD), weights)
            log_probs = jax.nn.log_softmax(logits / self.temperature)
            size = logits.shape[-1]
            if not 0 < self.top < size:
                return {LOG_PROBS: log_probs}
            best, ids = jax.lax.top_k(log_probs, self.top)
            kept = jnp.concatenate([best, _others(log_probs, ids)[..., None]], axis=-1)
            return {LOG_PROBS: kept, IDS: ids.astype(jnp.uint16 if size <= 2**16 else jnp.int32)}

        weights, hidden_BTD = batch["weights"].astype(jnp.float32), self.hidden(model, params, batch)
        return mapped(self.chunk, predicted, hidden_BTD, weights, parts=model.context_parts)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """As of `TokenLoss`; of the batch also what `precomputed` names."""
        taught = [batch[name] for name in (LOG_PROBS, IDS) if name in batch]

        def score(hidden_BTD: jax.Array, targets: jax.Array, weights: jax.Array, *taught: jax.Array) -> Any:
            logits = counted(model.logits(params, hidden_BTD), weights)
            values = self._values(logits, targets, *taught)
            return tuple(weighted_sum(values[name], weights) for name in self.metrics)

        weights = batch["weights"].astype(jnp.float32)
        arrays = (hidden_BTD, batch["targets"], weights, *taught)
        sums = dict(zip(self.metrics, summed(self.chunk, score, *arrays, parts=model.context_parts)))
        weight = self.weight(batch)
        return Loss(sums["loss"], weight, {name: (total, weight) for name, total in sums.items()})

    def _values(
        self, logits: jax.Array, targets: jax.Array, theirs: jax.Array, ids: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Each of `metrics` per target [...], of logits [..., V], targets [...] and what the teacher predicts."""
        log_q = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_q, targets[..., None], axis=-1)[..., 0]
        mine = log_q if self.temperature == 1 else jax.nn.log_softmax(logits / self.temperature)
        first, mass = jnp.argmax(theirs, axis=-1), jnp.ones(targets.shape)
        if ids is not None:
            ids = ids.astype(jnp.int32)
            first, mass = ids[..., 0], 1 - jnp.exp(theirs[..., -1])
            kept = jnp.take_along_axis(mine, ids, axis=-1)
            mine = jnp.concatenate([kept, _others(mine, ids)[..., None]], axis=-1)
        apart = DIVERGENCES[self.divergence_from](theirs, mine, self.beta)
        best = jnp.argmax(logits, axis=-1)
        return {
            "loss": self.data_weight * nll + (1 - self.data_weight) * self.temperature**2 * apart,
            "nll": nll,
            "accuracy": best == targets,
            "kl": forward_kl(theirs, mine),
            "agreement": best == first,
            "teacher_mass": mass,
        }


@dataclasses.dataclass(frozen=True)
class SelfDistill(Distill):
    """The teacher is what the run starts as, its parent: what it predicts is kept while the data are learned (Li & Hoiem 2016,
    "Learning without Forgetting")."""

    needs_reference: ClassVar[bool] = True


def _others(log_probs: jax.Array, ids: jax.Array) -> jax.Array:
    """The log-probability [...] of all tokens but `ids` [..., k]; of log-probabilities [..., V]."""
    # Not log(1 - the sum of the others), which is nothing but rounding where they have nearly all.
    rest = jnp.put_along_axis(log_probs, ids, -jnp.inf, axis=-1, inplace=False)
    return jax.nn.logsumexp(rest, axis=-1)


def forward_kl(log_p: jax.Array, log_q: jax.Array, beta: float = 0.0) -> jax.Array:
    """KL(p || q) in nats [...], of log-probabilities [..., K]."""
    del beta
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def reverse_kl(log_p: jax.Array, log_q: jax.Array, beta: float = 0.0) -> jax.Array:
    """KL(q || p)."""
    del beta
    return forward_kl(log_q, log_p)


def jensen_shannon(log_p: jax.Array, log_q: jax.Array, beta: float) -> jax.Array:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""
    log_m = jnp.logaddexp(log_p + jnp.log(beta), log_q + jnp.log1p(-beta))
    return beta * forward_kl(log_p, log_m) + (1 - beta) * forward_kl(log_q, log_m)


Between = Callable[[jax.Array, jax.Array, float], jax.Array]
DIVERGENCES: dict[str, Between] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}
