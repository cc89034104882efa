"""Which caption belongs to which image, among those of the batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.errors import UserError
from ptft_jax.objectives import recall
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored
from ptft_jax.objectives.contrastive import digests, unit
from ptft_jax.objectives.token_loss import weighted_sum

_SCALE = "head/texts/scale"
_MOST = math.log(100.0)


@dataclasses.dataclass(frozen=True)
class _ImageText(Rows):
    """What both losses share: scores of all images with all captions of a batch, on whatever mesh it is spread.

    A caption that another row has, too, token by token, is no negative of this one, and is left out of its loss. Images are not compared: by the
    time they are learned from each copy was varied in its own way.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "scale")
    scores: ClassVar[tuple[str, ...]] = recall.NAMES
    informs: ClassVar[bool] = False
    crosses_rows: ClassVar[bool] = True

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by the hidden states of its images; of the batch: captions int [B, S], `ends` int [B], the last position of each,
        and weights float [B]."""
        weights_B = self.weights(batch)
        images_BE, texts_BE = _vectors(model, params, hidden_BTD, batch)
        cosines_BB = jnp.einsum("be,ce->bc", images_BE, texts_BE, precision=jax.lax.Precision.HIGHEST)
        scale, bias = model.pair_scale(params)
        digest_B2 = _digests(batch)
        own_BB = jnp.eye(len(images_BE), dtype=bool)
        negative_BB = (digest_B2[:, None] != digest_B2[None]).any(-1)
        loss_B, right_B = self._losses(cosines_BB * scale + bias, own_BB, negative_BB, weights_B > 0)
        values = {"loss": loss_B, "accuracy": right_B, "scale": jnp.broadcast_to(scale, loss_B.shape)}
        weight = jnp.sum(weights_B)
        found = {name: (weighted_sum(values[name], weights_B), weight) for name in self.metrics}
        return Loss(found["loss"][0], weight, found)

    def _losses(
        self, scores_BB: jax.Array, own_BB: jax.Array, negative_BB: jax.Array, there_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Of each row the loss, and whether its own caption has the highest score, float32 [B]; of images [B] and captions [B] their scores,
        which belong together, which do not, and which rows are no filling."""
        raise NotImplementedError

    def chosen(self, model: Any, params: Any, batch: Batch) -> jax.Array:
        """How likely each of a batch's captions is an image's, float32 [B, B], by a softmax of the scores; 0 of rows that fill the batch up."""
        images_BE, texts_BE = _vectors(model, params, self.hidden(model, params, batch), batch)
        scores_BB = images_BE @ texts_BE.T * model.pair_scale(params)[0]
        return jax.nn.softmax(jnp.where(self.weights(batch)[None] > 0, scores_BB, jnp.finfo(jnp.float32).min), axis=1)

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        pixels_BP = batch["inputs"].reshape(len(batch["inputs"]), -1)
        of_images_B2 = digests(pixels_BP, jnp.ones(pixels_BP.shape, bool))
        vectors = _vectors(model, params, hidden_BTD, batch)
        return recall.tables(*vectors, of_images_B2, _digests(batch), self.weights(batch))

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """Raises UserError: vectors are no distribution that another could be compared with."""
        raise UserError(
            "config.objective.name = 'clip' and 'siglip' give vectors and no probabilities, so two models have no divergence "
            "(tune.distill, tune.smooth): leave their weights at 0"
        )


@dataclasses.dataclass(frozen=True)
class Clip(_ImageText):
    """The mean of two cross-entropies, of each image's caption among all captions and of each caption's image among all images (Radford et al.
    2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3). Cosines are multiplied by at most 100 (section 2.5)."""

    def bounded(self, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {_SCALE: jnp.minimum(params[_SCALE], _MOST)} if _SCALE in params else {}

    def _losses(
        self, scores_BB: jax.Array, own_BB: jax.Array, negative_BB: jax.Array, there_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        counts_BB = own_BB | (negative_BB & there_B[None])
        lowest = jnp.finfo(jnp.float32).min
        found = [jnp.where(counts_BB, scores, lowest) for scores in (scores_BB, scores_BB.T)]
        each = [-jnp.diagonal(jax.nn.log_softmax(scores)) for scores in found]
        return (each[0] + each[1]) / 2, (found[0].argmax(1) == jnp.arange(len(own_BB))) * 1.0


@dataclasses.dataclass(frozen=True)
class Siglip(_ImageText):
    """Of each pair of an image and a caption whether they belong together, by a sigmoid (Zhai et al. 2023, "Sigmoid Loss for Language Image
    Pre-Training", equation 1). The loss of a row is the sum over all images of the batch with its caption."""

    def _losses(
        self, scores_BB: jax.Array, own_BB: jax.Array, negative_BB: jax.Array, there_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        counts_BB = own_BB | (negative_BB & there_B[:, None])
        signs_BB = jnp.where(own_BB, 1.0, -1.0)
        loss_B = -jnp.sum(jnp.where(counts_BB, jax.nn.log_sigmoid(signs_BB * scores_BB), 0.0), axis=0)
        among_BB = jnp.where(own_BB | (negative_BB & there_B[None]), scores_BB, jnp.finfo(jnp.float32).min)
        return loss_B, (among_BB.argmax(1) == jnp.arange(len(own_BB))) * 1.0


def _vectors(model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Of the images and of their captions, float32 [B, E] each, of length 1."""
    return unit(model.logits(params, hidden_BTD)), unit(model.texts(params, batch["captions"], batch["ends"]))


def _digests(batch: Batch) -> jax.Array:
    captions = batch["captions"]
    return digests(captions, jnp.arange(captions.shape[1]) <= batch["ends"][:, None])
