"""Rates by width, so that the best one of a narrow model is that of a wide one (muP)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import optax

from ptft_jax.adapters.base import is_added
from ptft_jax.errors import UserError
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten

OPTIMIZERS = ("adamw", "lion")


def divisors(optimizer: str, partition: Partition, ratio: float) -> dict[str, float]:
    """What divides the direction of each trainable leaf, by its path (Yang et al. 2022, "Tensor Programs V", table 8, of Adam): of kernels
    that a width goes into the ratio; of embeddings, biases, norms, an image's patches and what methods add 1.

    Args:
      ratio: the width over the base width (`ModelSpec.width_ratio`).

    Raises:
      UserError: an optimizer of which this is not the rule, where a kernel trains.
    """
    trained = {leaf.path: _from_width(leaf.source) for leaf in partition.leaves if leaf.trains}
    if optimizer not in OPTIMIZERS and any(trained.values()):
        raise UserError(
            f"config.optimizer.name = {optimizer!r}: expected {' or '.join(OPTIMIZERS)} where model.mup_base_width is set: muP's rates are "
            "those of updates whose numbers are all of one size, as Adam's are"
        )
    return {path: ratio if divided else 1.0 for path, divided in trained.items()}


def divide(by: Mapping[str, float]) -> optax.GradientTransformation:
    """Divides each leaf of the updates by its number."""

    def update(updates: Mapping[str, jax.Array], _: object) -> dict[str, jax.Array]:
        return unflatten({path: u if by[path] == 1 else u / by[path] for path, u in flatten(updates).items()})

    return optax.stateless(update)


def _from_width(path: str) -> bool:
    return path.endswith("/kernel") and not path.startswith("embed/") and not is_added(path)
