"""Decoupled decay: what every update takes of a parameter's distance from 0, and from where it started.

Both are shares of that distance, rate * multiplier * strength: with a share above 1 a parameter would land on the other side,
above 2 farther away. Together they are at most 1 here, so that more strength always holds harder; where they are 1, a parameter is
where it is pulled to (between the two, by their strengths), moved by this update's direction alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Pulls:
    """The strengths, each a tree that broadcasts to the trainable one, or a number for all of it.

    Attributes:
      decay: of the pull to 0 (weight decay).
      start: of the pull to the parameters of step 0.
      rates: multipliers of the learning rate.
    """

    decay: Any
    start: float
    rates: Any

    def to_zero(self) -> optax.GradientTransformationExtraArgs:
        """Adds decay * parameter to updates that are yet to be multiplied by minus the rate, given as `rate`."""

        def update(updates, state, params, *, rate, **_):
            within = self._within(rate)
            return jax.tree.map(lambda u, p, d, w: u + d * w * p, updates, params, self.decay, within), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def to_start(self) -> optax.GradientTransformationExtraArgs:
        """As `to_zero`: adds start * (parameter - `anchor`), `anchor` being those of step 0."""

        def update(updates, state, params, *, rate, anchor, **_):
            within = self._within(rate)
            return jax.tree.map(lambda u, p, a, w: u + self.start * w * (p - a), updates, params, anchor, within), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def _within(self, rate: jax.Array) -> Any:
        """What both are multiplied by, by parameter: 1 where their shares add up to at most 1."""

        def factor(decay, multiplier):
            return 1 / jnp.maximum(rate * multiplier * (decay + self.start), 1.0)

        return jax.tree.map(factor, self.decay, self.rates)
