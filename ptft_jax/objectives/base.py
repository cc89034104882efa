"""What every objective returns, and how its numbers are summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ptft_jax.model.moe import Routing

Scored = tuple[Any, jax.Array]  # parameters, and what the model with these made of a batch: its last hidden states
Measure = Callable[[jax.Array, jax.Array], jax.Array]  # logits [..., V], logits [..., V] -> [...]
Batch = dict[str, jax.Array]
# (sum, weight): a mean that has not been taken yet. Sums of micro-batches, devices and steps add up exactly to
# what one large batch would have given; means of means do not.
Sum = tuple[jax.Array, jax.Array]


class Loss(NamedTuple):
    """`total` is what is differentiated, a sum; `weight` is what it will be divided by; `metrics` name (sum, weight)."""

    total: jax.Array
    weight: jax.Array
    metrics: dict[str, Sum]


class Objective(Protocol):
    """Turns (model, parameters, batch, dropout keys) into a loss: `loss` of what `hidden` gives (`routed`: and how experts were
    used for it). Pure, and hashable as a static argument. `metrics`: the names of the loss' metrics."""

    metrics: tuple[str, ...]

    def __call__(self, model: Any, params: Any, batch: Batch, keys_B: jax.Array | None) -> Loss: ...

    def hidden(
        self, model: Any, params: Any, batch: Batch, keys_B: jax.Array | None = None, noise_BTD: jax.Array | None = None
    ) -> jax.Array: ...

    def routed(
        self, model: Any, params: Any, batch: Batch, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, Routing | None]: ...

    def loss(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> Loss: ...

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array: ...


class Rows:
    """What an objective makes hidden states of: the rows of a batch, with what a builder says of them."""

    def hidden(
        self,
        model: Any,
        params: Any,
        batch: Batch,
        keys_B: jax.Array | None = None,
        noise_BTD: jax.Array | None = None,
    ) -> jax.Array:
        """The last hidden states [B, T, D] of a batch; `noise_BTD` is added to the vectors of its tokens."""
        return self._run(model, params, batch, keys_B, noise_BTD=noise_BTD)[0]

    def routed(
        self, model: Any, params: Any, batch: Batch, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, Routing | None]:
        """The last hidden states, and how experts were used for them (`ptft_jax.model.transformer.Transformer.run`)."""
        return self._run(model, params, batch, keys_B, routing=True)

    def weight(self, batch: Batch) -> jax.Array:
        """What a loss of a batch is divided by, float32 []."""
        return jnp.sum(batch["weights"].astype(jnp.float32))

    def _run(self, model, params, batch, keys_B, **options):
        return model.run(
            params,
            batch["tokens"],
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            prefix_BT=batch.get("prefix"),
            keys_B=keys_B,
            adapters_B=batch.get("adapters"),
            **options,
        )


def means(metrics: dict[str, Sum]) -> dict[str, jax.Array]:
    """Takes the means, once. A weight of zero gives NaN, so that nothing averaged over nothing passes as a number."""
    return {name: total / weight for name, (total, weight) in metrics.items()}
