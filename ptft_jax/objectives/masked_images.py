"""Masked autoencoding: the pixels of the patches of an image that the model does not see."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.errors import UserError
from ptft_jax.model.vision import normalized, patches
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored
from ptft_jax.objectives.token_loss import weighted_sum

_EPSILON = 1e-6  # added to the variance of a patch, as its authors do


@dataclasses.dataclass(frozen=True)
class MaskedImages(Rows):
    """Mean squared error of the pixels of hidden patches, per row (He et al. 2022, "Masked Autoencoders Are Scalable Vision
    Learners", section 3).

    Attributes:
      normalize_patches: whether pixels are less the mean of their patch, over their deviation; else as the model reads them.
    """

    normalize_patches: bool = True

    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    informs: ClassVar[bool] = False

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by the hidden states of what the model saw; of the batch: inputs [B, size, size, C], visible int [B, K],
        and weights float [B]."""
        visible_BK, weights_B = batch["visible"], self.weights(batch)
        targets_BNC = patches(normalized(batch["inputs"], model.spec), model.spec.patch_size).astype(jnp.float32)
        if self.normalize_patches:
            mean, deviation = patch_statistics(targets_BNC)
            targets_BNC = (targets_BNC - mean) / deviation
        errors_BN = jnp.mean(jnp.square(model.pixels(params, hidden_BTD, visible_BK) - targets_BNC), axis=-1)
        hidden_BN = jnp.ones_like(errors_BN).at[jnp.arange(len(visible_BK))[:, None], visible_BK].set(0.0)
        loss_B = jnp.sum(errors_BN * hidden_BN, axis=-1) / jnp.sum(hidden_BN, axis=-1)
        total, weight = weighted_sum(loss_B, weights_B), jnp.sum(weights_B)
        return Loss(total, weight, {"loss": (total, weight)})

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """Raises UserError: pixels are no distribution that another could be compared with."""
        raise UserError(
            "config.objective.name = 'masked_images' predicts pixels and no probabilities, so two models have no divergence "
            "(tune.distill, tune.smooth): leave their weights at 0"
        )


def patch_statistics(patches_BNC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the deviation of the pixels of each patch, [B, N, 1]."""
    mean = jnp.mean(patches_BNC, axis=-1, keepdims=True)
    return mean, jnp.sqrt(jnp.var(patches_BNC, axis=-1, keepdims=True, ddof=1) + _EPSILON)
