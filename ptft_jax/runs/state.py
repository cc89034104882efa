"""Everything that a training step changes, as one pytree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ptft_jax.params import precision


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
      step: int32, optimizer updates done.
      trainable, frozen: the two parts of the parameters (`ptft_jax.params.partition`).
      optimizer: Optax state over `trainable`.
      rng: the run's base key; a step's randomness is a function of (rng, step, row), never of what ran before.
      ema: average of `trainable` over the steps so far (of step 0 `trainable` itself), or an empty dict.
      anchor: `trainable` as it was at step 0, where something keeps the run near it, else an empty dict.
      fisher: the importance of each of `trainable` to the parent (`ptft_jax.regularization.fisher`), float32, or an empty dict.
      halted: bool, set by a non-finite loss or gradient. A halted state ignores further steps, so it stays the last
        good one however late the host looks.
    """

    step: jax.Array
    trainable: dict[str, Any]
    frozen: dict[str, Any]
    optimizer: Any
    rng: jax.Array
    ema: dict[str, Any]
    anchor: dict[str, Any]
    fisher: dict[str, Any]
    halted: jax.Array


def create(
    trainable: dict[str, Any],
    frozen: dict[str, Any],
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
    ema: bool,
    anchor: bool = False,
    fisher: bool = False,
) -> TrainState:
    """The state of step 0, with an importance of zero. Traceable.

    `trainable` and `frozen` are in the dtypes that they are kept in; moments, average and start follow the trainable ones
    (`ptft_jax.params.precision`).
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        optimizer=precision.narrowed(optimizer.init(precision.wide(trainable)), trainable),
        rng=rng,
        ema=jax.tree.map(jnp.copy, trainable) if ema else {},
        anchor=jax.tree.map(jnp.copy, trainable) if anchor else {},
        fisher=jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), trainable) if fisher else {},
        halted=jnp.zeros((), bool),
    )
