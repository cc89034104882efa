"""Learning from rewards with a value head: what each token changes of what an answer is expected to be worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import Batch, Sum
from ptft_jax.objectives.policy import Policy
from ptft_jax.objectives.token_loss import weighted_sum


@dataclasses.dataclass(frozen=True)
class PPO(Policy):
    """Proximal policy optimization (Schulman et al. 2017) of answers whose reward comes with their last token (Ziegler et al. 2019,
    section 2.1; Ouyang et al. 2022, appendix C.4). The value of a place in an answer is read off the hidden state that its token is
    predicted by; after the last token, whatever ended the answer, nothing is left to come.

    The loss of a token is that of `Policy`, by its own advantage, plus `value_weight` times half the squared error of its value, or that of
    the value within `value_clip` of the old one where that is larger (Schulman et al. 2017, equation 9; the clipping is that of OpenAI's
    baselines, as TRL has it).

    With `kl_estimator` "k1" the divergence from the reference is taken off the reward of each token.

    Attributes:
      gamma: what a reward one token later is worth.
      gae_lambda: see `gae`; 1 = all that came after a token, less its value.
      whiten: whether advantages are moved and divided so that over the tokens of a rollout their mean is 0 and their deviation 1.
      value_weight: of the error of values.
      value_clip: see above; 0 = none.
    """

    gamma: float = 1.0
    gae_lambda: float = 0.95
    whiten: bool = True
    value_weight: float = 0.1
    value_clip: float = 0.0

    own_ratio: ClassVar[str] = "token"
    value_head: ClassVar[bool] = True

    @classmethod
    def _given(cls, section: ObjectiveOptions) -> dict[str, Any]:
        p, given = section.policy, super()._given(section)
        if given["ratio"] != "token":
            raise UserError(
                f"config.objective.policy.ratio = {p.ratio!r}: each token has an advantage of its own with {section.name}: expected 'token'"
            )
        names = ("gamma", "gae_lambda", "whiten", "value_weight", *(("value_clip",) if p.updates > 1 else ()))
        return given | {name: p[name] for name in names}

    def estimated(
        self, rewards: Sequence[np.ndarray], values: Sequence[np.ndarray], known: Sequence[bool]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(advantages, returns) of the tokens of each answer, float64, by their rewards and values; those of answers that are not `known`
        are 0, and count for nothing. Returns are what values learn: advantages, as they are before `whiten`, plus values."""
        raw = [gae(r, v, self.gamma, self.gae_lambda) if k else 0 * v for r, v, k in zip(rewards, values, known)]
        returns = [advantage + v for advantage, v in zip(raw, values)]
        if not self.whiten:
            return raw, returns
        there = np.concatenate([a for a, k in zip(raw, known) if k] or [np.zeros(0)])
        if not len(there):
            return raw, returns
        middle, size = there.mean(), there.std(ddof=1 if len(there) > 1 else 0)
        return [(a - middle) / (size**2 + 1e-8) ** 0.5 if k else a for a, k in zip(raw, known)], returns

    def values(self, model: Any, params: Any, batch: Batch) -> jax.Array:
        """What the rest of each answer is worth at each of its tokens, float32 [B, T]; 0 elsewhere."""
        return self._values(model, params, self.hidden(model, params, batch), batch)

    def _values(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> jax.Array:
        return jnp.where(batch["weights"] > 0, model.values(params, hidden_BTD), 0.0)

    def beside(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, Sum]]:
        """The weighted error of values. Of the batch: values and returns float32 [B, T], and float32 [B] explained, the share of the returns'
        variance that values explained in the rollout, where `varied` is 1."""
        values, old = self._values(model, params, hidden_BTD, batch), batch["values"]
        plain = clipped = jnp.square(values - batch["returns"])
        if self.value_clip:
            near = old + jnp.clip(values - old, -self.value_clip, self.value_clip)
            clipped = jnp.square(near - batch["returns"])
        error = jnp.maximum(plain, clipped) / 2
        weights, mask = self.weights(batch), batch["weights"].astype(jnp.float32)
        tokens = jnp.sum(mask)
        return self.value_weight * error, {
            "value_loss": (weighted_sum(error, weights), self.weight(batch)),
            "value": (weighted_sum(values, mask), tokens),
            "value_clipped": (weighted_sum((clipped > plain).astype(jnp.float32), mask), tokens),
            "explained_variance": (jnp.sum(batch["explained"] * batch["varied"]), jnp.sum(batch["varied"])),
        }


def gae(rewards: np.ndarray, values: np.ndarray, gamma: float, gae_lambda: float) -> np.ndarray:
    """Generalized advantage estimates of the tokens of an answer, float64 [T] (Schulman et al. 2016, "GAE", equation 16): the sum over
    k of (gamma lambda)^k times r + gamma v' - v of the token k later, where v' is the value at the next token, 0 after the last.

    Args:
      rewards, values: float [T], of each token.
    """
    out, later = np.zeros(len(values)), 0.0
    errors = np.asarray(rewards, float) + gamma * np.append(values[1:], 0.0) - values
    for place in reversed(range(len(out))):
        out[place] = later = errors[place] + gamma * gae_lambda * later
    return out


def explained(returns: np.ndarray, values: np.ndarray) -> float | None:
    """The share of the variance of returns that values explain, 1 - Var(returns - values) / Var(returns), at most 1; None where returns
    are all the same."""
    spread = np.var(returns) if len(returns) else 0.0
    return float(1 - np.var(returns - values) / spread) if spread > 0 else None
