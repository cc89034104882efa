"""Which passage belongs to a question, among those of the batch: vectors for search."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.moe import Routing
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, inputs_of
from ptft_jax.objectives.token_loss import weighted_sum

_MIX = (0x9E3779B1, 0x85EBCA77)


@dataclasses.dataclass(frozen=True)
class Contrastive(Rows):
    """InfoNCE with in-batch negatives (van den Oord et al. 2018, equation 4; Karpukhin et al. 2020, "DPR", section 3.2): of each row the
    cross-entropy of its passage among all passages of the batch, by cosines over a temperature.

    A passage that another row has, too, token by token, is no negative of this one.

    Attributes:
      pooling: what a text's vector is: "mean" of its last hidden states, or the "last" of them.
      similarity_temperature: what cosines are divided by.
    """

    pooling: str = "mean"
    similarity_temperature: float = 0.05

    metrics: ClassVar[tuple[str, ...]] = ("loss", "nll", "accuracy")
    informs: ClassVar[bool] = False
    crosses_rows: ClassVar[bool] = True

    def hidden(
        self, model: Any, params: Any, batch: Batch, context: Context = PLAIN, noise_BTD: jax.Array | None = None
    ) -> jax.Array:
        """As of `Rows`: a row's question and passage do not see each other, and each begins at position 0."""
        return model.run(params, _apart(batch, context)._replace(noise=noise_BTD))[0]

    def routed(
        self, model: Any, params: Any, batch: Batch, context: Context = PLAIN
    ) -> tuple[jax.Array, Routing | None]:
        return model.run(params, _apart(batch, context), routing=True)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: inputs, segments int [B, T], `question` bool [B, T], which tokens
        are the question's, and weights float [B]."""
        question_BT, weights_B = batch["question"], self.weights(batch)
        passage_BT = (batch["segments"] > 0) & ~question_BT
        logits_BB = self._logits(hidden_BTD, batch, passage_BT)
        log_BB = jax.nn.log_softmax(logits_BB)
        nll_B = -jnp.diagonal(log_BB)
        values = {"loss": nll_B, "nll": nll_B, "accuracy": (logits_BB.argmax(1) == jnp.arange(len(nll_B))) * 1.0}
        weight = jnp.sum(weights_B)
        found = {name: (weighted_sum(values[name], weights_B), weight) for name in self.metrics}
        return Loss(found["loss"][0], weight, found)

    def _logits(self, hidden_BTD: jax.Array, batch: Batch, passage_BT: jax.Array) -> jax.Array:
        """float32 [B, B]: of each question and each passage of the batch; the lowest number of those that are none of its negatives."""
        questions_BD = unit(pooled(hidden_BTD, batch["question"], self.pooling))
        passages_BD = unit(pooled(hidden_BTD, passage_BT, self.pooling))
        product_BB = jnp.einsum("bd,cd->bc", questions_BD, passages_BD, precision=jax.lax.Precision.HIGHEST)
        digest_B2 = digests(batch["inputs"], passage_BT)
        same_BB = (digest_B2[:, None] == digest_B2[None]).all(-1)
        itself_BB = jnp.eye(len(passages_BD), dtype=bool)
        counts_BB = itself_BB | (~same_BB & (self.weights(batch) > 0)[None])
        return jnp.where(counts_BB, product_BB / self.similarity_temperature, jnp.finfo(jnp.float32).min)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """Raises UserError: vectors are no distribution that another could be compared with."""
        raise UserError(
            "config.objective.name = 'contrastive' gives vectors and no probabilities, so two models have no divergence "
            "(tune.distill, tune.smooth): leave their weights at 0"
        )


def _apart(batch: Batch, context: Context) -> Inputs:
    """What a model is given of a batch: a row's question is segment 1, its passage 2, and each begins at position 0."""
    question_BT = batch["question"]
    lengths_B = jnp.sum(question_BT, axis=1, dtype=jnp.int32)
    at_BT = jnp.arange(question_BT.shape[1], dtype=jnp.int32)
    positions_BT = jnp.where(question_BT, at_BT, jnp.maximum(at_BT - lengths_B[:, None], 0))
    segments_BT = jnp.where(batch["segments"] > 0, jnp.where(question_BT, 1, 2), 0)
    return inputs_of(batch, context)._replace(positions=positions_BT, segments=segments_BT)


def pooled(hidden_BTD: jax.Array, chosen_BT: jax.Array, pooling: str) -> jax.Array:
    """float32 [B, D]: the mean of the states of the chosen tokens of each row, or the last of them."""
    states = hidden_BTD.astype(jnp.float32)
    if pooling == "last":
        last_B = chosen_BT.shape[1] - 1 - jnp.argmax(chosen_BT[:, ::-1], axis=1)
        return jnp.take_along_axis(states, last_B[:, None, None], axis=1)[:, 0]
    total_BD = jnp.sum(jnp.where(chosen_BT[..., None], states, 0), axis=1)
    return total_BD / jnp.maximum(jnp.sum(chosen_BT, axis=1), 1)[:, None]


def unit(x_BD: jax.Array) -> jax.Array:
    """Vectors of length 1. The gradient at 0 is finite, as of rows that are there to fill a batch up."""
    return x_BD * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x_BD), axis=-1, keepdims=True), 1e-24))


def digests(ids_BT: jax.Array, chosen_BT: jax.Array) -> jax.Array:
    """uint32 [B, 2]: equal where the chosen tokens of two rows are, which are the last of each row."""
    place_BT = jnp.cumsum(chosen_BT, axis=1).astype(jnp.uint32)
    found = []
    for mix in _MIX:
        factor = place_BT * jnp.uint32(mix)
        factor = (factor ^ (factor >> 15)) * jnp.uint32(0x2C1B3C6D) | 1
        terms = jnp.where(chosen_BT, (ids_BT.astype(jnp.uint32) + 1) * factor, 0)
        found.append(jnp.sum(terms, axis=1, dtype=jnp.uint32))
    return jnp.stack(found, axis=1)
