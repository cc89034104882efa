"""The next token of a text about an image."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Sum
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.token_loss import counted, mapped, weighted_sum

_OTHER = "_other_images"  # ends the names of what is measured with the image of another row


@dataclasses.dataclass(frozen=True)
class VisionLM(CausalLM):
    """Cross-entropy of the next token of a caption or an answer, after the vectors of its image (Liu et al. 2023, "Visual Instruction Tuning",
    equation 3).

    Evaluations also have "exact", the share of rows of which every token that is learned is the likeliest, given those before it: of those the
    greedy answer is the right one, token by token, with its end. And "nll_other_images" and "exact_other_images": the same with the image of another
    row of the batch, drawn once and for all. They tell what is known without looking.
    """

    scores: ClassVar[tuple[str, ...]] = ("exact", f"nll{_OTHER}", f"exact{_OTHER}")

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, Any]:
        other_B, several_B = successors(batch["weights"])
        mixed = {**batch, "images": batch["images"][other_B], "weights": batch["weights"] * several_B[:, None]}
        other_BTD = self.hidden(model, params, mixed)
        loss = self.loss_of(model, params, other_BTD, mixed)
        return {
            "exact": self._exact(model, params, hidden_BTD, batch),
            f"nll{_OTHER}": loss.metrics["nll"],
            f"exact{_OTHER}": self._exact(model, params, other_BTD, mixed),
        }

    def _exact(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> Sum:
        """How many rows of a batch are right throughout, and how many there are."""

        def wrong(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
            likeliest = jnp.argmax(counted(model.logits(params, hidden), weights), axis=-1)
            return (weights > 0) & (likeliest != targets)

        weights_BT = batch["weights"].astype(jnp.float32)
        wrong_BT = mapped(self.chunk, wrong, hidden_BTD, batch["targets"], weights_BT, parts=model.context_parts)
        there_B = (weights_BT > 0).any(axis=1).astype(jnp.float32)
        return weighted_sum(1.0 - wrong_BT.any(axis=1), there_B), jnp.sum(there_B)


def successors(weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Another row for each, int32 [B]: that after it in a round of all rows that weigh something, in an order that is the same for every batch of so
    many rows; and float32 [B], 1 for each that has another. Neighbors in a batch are no such choice: sources have an order."""
    there_B = (weights_BT > 0).any(axis=1)
    drawn_B = jax.random.uniform(jax.random.key(0), there_B.shape) + jnp.where(there_B, 0.0, 1.0)
    order_B, count = jnp.argsort(drawn_B), jnp.sum(there_B)
    next_B = order_B[jnp.mod(jnp.arange(len(order_B)) + 1, jnp.maximum(count, 1))]
    other_B = jnp.zeros_like(order_B).at[order_B].set(next_B)
    return other_B, (there_B & (count > 1)).astype(jnp.float32)
