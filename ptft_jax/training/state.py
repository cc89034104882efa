"""Everything that a training step changes, as one pytree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
      step: int32, optimizer updates done.
      trainable, frozen: the two parts of the parameters (`ptft_jax.params.partition`).
      optimizer: Optax state over `trainable`.
      rng: the run's base key; a step's randomness is a function of (rng, step, row), never of what ran before.
      ema: average of `trainable`, or an empty dict.
      halted: bool, set by a non-finite loss or gradient. A halted state ignores further steps, so it stays the last
        good one however late the host looks.
    """

    step: jax.Array
    trainable: dict[str, Any]
    frozen: dict[str, Any]
    optimizer: Any
    rng: jax.Array
    ema: dict[str, Any]
    halted: jax.Array


def create(
    trainable: dict, frozen: dict, optimizer: optax.GradientTransformation, rng: jax.Array, ema: bool
) -> TrainState:
    """The state of step 0. Traceable."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        optimizer=optimizer.init(trainable),
        rng=rng,
        ema=jax.tree.map(jnp.copy, trainable) if ema else {},
        halted=jnp.zeros((), bool),
    )
