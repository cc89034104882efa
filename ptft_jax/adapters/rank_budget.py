"""Which singular triplets of AdaLoRA's updates matter, and how many may stay (Zhang et al. 2023, sections 3.1 to 3.3).

All of it is Optax transformations over the trainable tree, so that its state is part of the optimizer's: saved,
restored and laid out over devices with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ptft_jax.params.rules import flatten, unflatten

LEFT, SINGULAR, RIGHT = "adapter/left", "adapter/singular", "adapter/right"


def penalty_gradient(vectors: jax.Array) -> jax.Array:
    """The gradient of |V^T V - 1|^2 (squares of all entries added up) for V [..., size, R], in float32."""
    v = vectors.astype(jnp.float32)
    gram = jnp.matmul(jnp.swapaxes(v, -1, -2), v, precision="highest")
    return 4 * jnp.matmul(v, gram - jnp.eye(gram.shape[-1]), precision="highest")


def _penalties(layers: tuple[str, ...], flat: Mapping[str, jax.Array], weight: float) -> dict[str, jax.Array]:
    """The penalty's gradients by path, of the vectors of `layers`."""
    found = {}
    for layer in layers:
        left, right = f"{layer}/{LEFT}", f"{layer}/{RIGHT}"
        found[left] = weight * penalty_gradient(flat[left])
        found[right] = weight * jnp.swapaxes(penalty_gradient(jnp.swapaxes(flat[right], -1, -2)), -1, -2)
    return found


def orthogonal(layers: tuple[str, ...], weight: float) -> optax.GradientTransformation:
    """Adds the gradient of weight * the sum over layers of |left^T left - 1|^2 + |right right^T - 1|^2 (eq. 4)."""

    def add(gradients: Any, params: Any) -> Any:
        flat = flatten(gradients)
        for path, more in _penalties(layers, flatten(params), weight).items():
            flat[path] = flat[path] + more.astype(flat[path].dtype)
        return unflatten(flat)

    return optax.stateless(add)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When triplets are pruned, in updates counted from 1: each `every`-th after `first`, at the latest at `last`."""

    first: int
    last: int
    every: int

    def prunes(self, step: jax.Array) -> jax.Array:
        """Whether triplets are ranked again after the update `step`, bool."""
        return (step > self.first) & ((step % self.every == 0) & (step < self.last) | (step == self.last))

    def budget(self, step: jax.Array, start: int, target: int) -> jax.Array:
        """int32: how many triplets may stay, from `start` by a cubic curve to `target` at `last` (eq. 12, read so that the
        curve begins at `first`, as in the authors' code)."""
        rest = jnp.clip((self.last - step) / (self.last - self.first), 0, 1)
        return target + jnp.floor((start - target) * rest**3).astype(jnp.int32)


class Ranking(NamedTuple):
    """What is known of every trained entry, as flat dicts by layer made nested like the trainable tree.

    Attributes:
      count: int32, updates done.
      sensitivity, uncertainty: float32, running averages in the shapes of the trained leaves (eqs. 9 and 10).
      kept: bool, in the shape of `singular`: the triplets of the last allocation.
    """

    count: jax.Array
    sensitivity: dict[str, Any]
    uncertainty: dict[str, Any]
    kept: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Zeroes the singular values of all but the most important triplets of all layers together, of each adapter apart.

    Attributes:
      layers: paths of the (stored) layers.
      schedule: when, and how many.
      share: of the triplets that stay in the end.
      beta1, beta2: decay of the averages.
      weight: of the penalty, whose gradient is part of what an entry's sensitivity is measured by.
    """

    layers: tuple[str, ...]
    schedule: Schedule
    share: float
    beta1: float
    beta2: float
    weight: float

    def _own(self, tree: Any) -> dict[str, jax.Array]:
        flat = flatten(tree)
        return {path: flat[path] for layer in self.layers for path in (f"{layer}/{n}" for n in (LEFT, SINGULAR, RIGHT))}

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The transformation of finished updates; its `update` takes the step's own `gradients` as a keyword."""
        return optax.GradientTransformationExtraArgs(self.init, self.update)

    def init(self, params: Any) -> Ranking:
        own = self._own(params)
        zeros = unflatten({p: jnp.zeros(a.shape, jnp.float32) for p, a in own.items()})
        kept = unflatten({p: jnp.ones(a.shape, bool) for p, a in own.items() if p.endswith(SINGULAR)})
        return Ranking(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros), kept)

    def update(self, updates: Any, state: Ranking, params: Any, *, gradients: Any, **_: Any) -> tuple[Any, Ranking]:
        step = state.count + 1
        own, slopes = self._own(params), self._own(gradients)
        if self.weight:
            for path, more in _penalties(self.layers, own, self.weight).items():
                slopes[path] = slopes[path] + more
        now = {p: jnp.abs(a.astype(jnp.float32) * slopes[p].astype(jnp.float32)) for p, a in own.items()}
        before, spread = flatten(state.sensitivity), flatten(state.uncertainty)
        sensitivity = {p: self.beta1 * before[p] + (1 - self.beta1) * a for p, a in now.items()}
        uncertainty = {
            p: self.beta2 * spread[p] + (1 - self.beta2) * jnp.abs(a - sensitivity[p]) for p, a in now.items()
        }
        scores = self.scores({p: sensitivity[p] * uncertainty[p] for p in now})
        prunes = self.schedule.prunes(step)
        chosen, kept = self.most(scores, step), flatten(state.kept)
        kept = {p: jnp.where(prunes, chosen[p], kept[p]) for p in kept}
        flat = flatten(updates)
        for path, stays in kept.items():
            gone = (prunes | (step > self.schedule.last)) & ~stays
            flat[path] = jnp.where(gone, -own[path], flat[path])
        new = Ranking(step, unflatten(sensitivity), unflatten(uncertainty), unflatten(kept))
        return unflatten(flat), new

    def scores(self, entries: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The importance of every triplet, by the path of its `singular`: that of its value, and the means of those of its
        two vectors (eq. 7)."""
        found = {}
        for layer in self.layers:
            left, singular, right = (entries[f"{layer}/{name}"] for name in (LEFT, SINGULAR, RIGHT))
            found[f"{layer}/{SINGULAR}"] = singular + jnp.mean(left, axis=-2) + jnp.mean(right, axis=-1)
        return found

    def most(self, scores: Mapping[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
        """bool by path: exactly the budget's number of triplets, those of the highest scores (of equals the first).

        Of several adapters, whose scores are [layers, adapters, R], each has a budget of its own.
        """
        rows = [jnp.moveaxis(a, -2, 0) if a.ndim == 3 else a[None] for a in scores.values()]
        line = jnp.concatenate([row.reshape(len(row), -1) for row in rows], axis=1)
        size = line.shape[1]
        place = jnp.argsort(jnp.argsort(-line))
        inside = place < self.schedule.budget(step, size, round(self.share * size))
        parts = jnp.split(inside, np.cumsum([row[0].size for row in rows])[:-1], axis=1)
        chosen = [part.reshape(row.shape) for part, row in zip(parts, rows)]
        return {p: jnp.moveaxis(c, 0, -2) if a.ndim == 3 else c[0] for c, (p, a) in zip(chosen, scores.items())}
