"""Low-rank updates as singular triplets, of which only the important keep their place (Zhang et al. 2023, "AdaLoRA")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters import rank_budget
from ptft_jax.adapters.base import Updates, float32
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.adapters.rank_budget import LEFT, RIGHT, SINGULAR
from ptft_jax.errors import UserError, listed
from ptft_jax.model.layers import Linear, PerRow, dropout
from ptft_jax.params.partition import Partition

_PRUNING = ("t_init", "t_final", "delta_t", "beta1", "beta2")
STD = 0.02  # of the vectors at the start, as in the authors' code


class Triplets(nnx.Module):
    """plain(x) + scale * ((dropout(x) @ left) * singular) @ right (eq. 3).

    `left` [in, R] and `right` [R, out] start random and are drawn to orthogonality by the penalty; `singular` [R] starts
    at zero and is kept in float32.
    """

    def __init__(self, layer: Linear, adalora: AdaLora, site: int, key: jax.Array):
        (size_in, size_out), rank, dtype = layer.kernel.shape, adalora.rank, layer.kernel.dtype
        self.scale, self.dropout, self.site = adalora.scale, adalora.dropout, site
        first, second = jax.random.split(key)
        self.left = nnx.Param(STD * jax.random.normal(first, (size_in, rank), dtype))
        self.singular = nnx.Param(jnp.zeros((rank,), jnp.float32))
        self.right = nnx.Param(STD * jax.random.normal(second, (rank, size_out), dtype))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        low = layer.project(dropout(x, self.dropout, rows, self.site), self.left[...].astype(layer.dtype))
        low = low * (self.singular[...] * self.scale).astype(layer.dtype)
        return layer.plain(x) + layer.product(low, self.right[...])


@dataclasses.dataclass(frozen=True)
class AdaLora(LowRankMethod):
    """Spends a budget of singular triplets where they matter most, over all the layers that train.

    Attributes:
      rank: R, triplets of each layer at the start.
      target_rank: triplets a layer at the end, on average.
      alpha: the update is scaled by alpha / R.
      dropout: rate on the adapter's input.
      t_init: updates before the first pruning; below 1 a share of the run's.
      t_final: updates after the last, in which what was pruned stays so; below 1 a share of the run's.
      delta_t: updates from one pruning to the next. Between two, what was pruned trains on and may come back.
      beta1, beta2: decay of the averages of sensitivity and uncertainty.
      orthogonal: weight in the loss of the sum over layers of |left^T left - 1|^2 + |right right^T - 1|^2 (eq. 4).
      targets: regular expressions on whole layer paths.
    """

    rank: int
    target_rank: int
    alpha: float
    dropout: float
    t_init: float
    t_final: float
    delta_t: int
    beta1: float
    beta2: float
    orthogonal: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.adalora"
    learning_rate: ClassVar[float] = 5e-4  # Zhang et al. 2023, appendix: MNLI, QQP and CoLA, and XSum

    @classmethod
    def of(cls, section: Any) -> AdaLora:
        """As `Method.of`. Raises UserError for settings of the pruning where nothing is pruned."""
        if section.target_rank == section.rank:
            idle = [name for name in _PRUNING if section[name] != section.default(name)]
            if idle:
                raise UserError(
                    f"config.tune.adalora.{idle[0]} = {section[idle[0]]!r} has no effect: target_rank is rank, {section.rank}, so "
                    "nothing is pruned"
                )
        return cls(**section.read_all())

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Triplets(layer, self, site, key)

    def check(self, shapes: Mapping[str, Any]) -> None:
        if self.target_rank > self.rank:
            raise UserError(
                f"config.tune.adalora.target_rank: {self.target_rank} is above tune.adalora.rank, {self.rank}: ranks only fall"
            )
        super().check(shapes)

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        if self.rank > min(shape):
            raise UserError(f"config.tune.adalora.rank: {self.rank} is above the size of {path}/kernel {shape}")

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """left * singular, and right."""
        return float32(leaves[LEFT]) * float32(leaves[SINGULAR])[..., None, :], float32(leaves[RIGHT])

    def updates(self, partition: Partition, steps: int) -> Updates:
        """The penalty's gradient, and the pruning of triplets. Raises UserError for a schedule that does not fit into
        `steps`, for triplets of which only a part trains, and for kernels that train beside them."""
        super().updates(partition, steps)
        layers = self._layers(partition)
        gradients = (rank_budget.orthogonal(layers, self.orthogonal),) if self.orthogonal else ()
        if not steps or self.target_rank == self.rank:
            return Updates(gradients)
        first, last = (round(t * steps) if t < 1 else int(t) for t in (self.t_init, self.t_final))
        if first + last >= steps:
            raise UserError(
                f"config.tune.adalora: t_init = {self.t_init:g} ({first} updates) and t_final = {self.t_final:g} ({last}) leave "
                f"none of training.steps = {steps} in which to prune; the two must add up to less"
            )
        schedule = rank_budget.Schedule(first, steps - last, self.delta_t)
        allocation = rank_budget.Allocation(
            layers, schedule, self.target_rank / self.rank, self.beta1, self.beta2, self.orthogonal
        )
        return Updates(gradients, (allocation.transformation(),))

    def _layers(self, partition: Partition) -> tuple[str, ...]:
        """Paths of the (stored) layers whose triplets train."""
        trains = {leaf.path: leaf.trains for leaf in partition.leaves}
        layers = [path.removesuffix(f"/{SINGULAR}") for path in trains if path.endswith(f"/{SINGULAR}")]
        parts = {layer: [trains[f"{layer}/{name}"] for name in (LEFT, SINGULAR, RIGHT)] for layer in layers}
        torn = [layer for layer, some in parts.items() if any(some) and not all(some)]
        if torn:
            raise UserError(
                f"config.tune.rates: left, singular and right of a layer train together, or not:{listed(torn)}"
            )
        frozen = [f.path for f in partition.leaves if f.trains and f.path.endswith(SINGULAR) and not all(f.phases)]
        if frozen:
            raise UserError(
                f"config.tune.phases: tune.adalora ranks the triplets of all layers together, so they train in every phase:{listed(frozen)}"
            )
        return tuple(layer for layer, some in parts.items() if all(some))
