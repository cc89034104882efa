"""Terms of the loss that keep what a model predicts: near its parent's, or the same where its input changes a little."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Context, Objective, Scored, Sum
from ptft_jax.objectives.kl import divergence, symmetric

_NOISE = 0x6E6F6973  # tells the noise's draws of a row from its dropout's, whose sites are small numbers


@dataclasses.dataclass(frozen=True)
class Distill:
    """Distillation to the parent on the data that is trained on (Li & Hoiem 2016, "Learning without Forgetting"):
    weight * temperature^2 * KL(parent || model), both with logits divided by `temperature` (Hinton et al. 2015, section 2).
    """

    weight: float
    temperature: float = 1.0

    def __call__(self, objective: Objective, model: Any, mine: Scored, parent: Any, batch: Batch) -> tuple[Any, Sum]:
        """(term to add to the loss' total, sum of the KL over the targets).

        Args:
          mine: parameters and last hidden states of the model.
          parent: parameters of the model as it started. It runs without dropout.
        """
        theirs = (parent, objective.hidden(model, parent, batch))
        heat = self.temperature
        total = objective.divergence(model, theirs, mine, batch, lambda p, q: divergence(p / heat, q / heat))
        return self.weight * heat**2 * total, total


@dataclasses.dataclass(frozen=True)
class Smooth:
    """What the model predicts should not change with a little noise on the vectors of its tokens: weight * the symmetric
    divergence of its predictions with and without it.

    R3F (Aghajanyan et al. 2021, "Better Fine-Tuning by Reducing Representational Collapse") draws the noise. SMART (Jiang
    et al. 2020, algorithm 1) also moves it, in `steps` steps, to where the predictions differ most. Both passes of a row use
    the same dropout masks, so that the noise alone is measured. A packed row is one row.

    Attributes:
      weight: lambda of R3F, lambda_s of SMART.
      noise: standard deviation of normal noise, half the width of uniform noise.
      uniform: which of the two; SMART's is normal.
      steps: of the ascent, 0 = R3F.
      step: its length, eta: the gradient is divided by its largest entry in the row.
      radius: epsilon, the largest entry that the noise may have after a step.
      bregman: mu of SMART, weight of the symmetric divergence from the model with averaged parameters.
    """

    weight: float
    noise: float = 1e-5
    uniform: bool = False
    steps: int = 0
    step: float = 1e-3
    radius: float = 1e-5
    bregman: float = 0.0

    def __call__(
        self, objective: Objective, model: Any, mine: Scored, batch: Batch, context: Context
    ) -> tuple[Any, Sum]:
        """(term to add to the loss' total, sum of the divergence over the targets); `mine` as for `Distill`."""
        noise_BTD = self.draw(objective, model, mine, batch, context)
        noisy = (mine[0], objective.hidden(model, mine[0], batch, context, noise_BTD))
        total = objective.divergence(model, mine, noisy, batch, symmetric)
        return self.weight * total, total

    def draw(self, objective: Objective, model: Any, mine: Scored, batch: Batch, context: Context) -> jax.Array:
        """The noise, float32 [B, T, D], a function of the rows' keys, and of SMART also of the model."""
        length = model.spec.max_length if model.spec.image_size else batch["inputs"].shape[1]
        shape = (length, model.spec.width)

        def one(key):
            key = jax.random.fold_in(key, _NOISE)
            if self.uniform:
                return jax.random.uniform(key, shape, minval=-self.noise, maxval=self.noise)
            return self.noise * jax.random.normal(key, shape)

        noise_BTD = jax.vmap(one)(context.keys)
        # The ascent is no part of what is differentiated.
        params, hidden_BTD = jax.lax.stop_gradient(mine)

        def apart(noise_BTD):
            noisy = (params, objective.hidden(model, params, batch, context, noise_BTD))
            return objective.divergence(model, (params, hidden_BTD), noisy, batch, symmetric)

        for _ in range(self.steps):
            slope = jax.grad(apart)(noise_BTD)
            largest = jnp.max(jnp.abs(slope), axis=(1, 2), keepdims=True)
            slope = slope / jnp.maximum(largest, jnp.finfo(slope.dtype).tiny)
            noise_BTD = jnp.clip(noise_BTD + self.step * slope, -self.radius, self.radius)
        return jax.lax.stop_gradient(noise_BTD)

    def teach(self, objective: Objective, model: Any, mine: Scored, average: Any, batch: Batch) -> tuple[Any, Sum]:
        """As `__call__`, for the term `bregman`; `average` are the averaged parameters, run without dropout."""
        theirs = (average, objective.hidden(model, average, batch))
        total = objective.divergence(model, theirs, mine, batch, symmetric)
        return self.bregman * total, total
