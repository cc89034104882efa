"""Several adapters of one kind in one model, each row of a batch with its own: many specialists on one frozen base,
trained and run in one program (as Sheng et al. 2023, "S-LoRA", section 4, batch the requests to many adapters)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, Method, Rules, Updates, is_added, layers
from ptft_jax.adapters.composed import Composed
from ptft_jax.errors import UserError, nearest
from ptft_jax.model.layers import Linear, PerRow
from ptft_jax.params.apart import Apart
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import STACK, flatten, unflatten


class EachRow(nnx.Module):
    """N modules of one kind as one, with leaves [N, ...]: row b of x [B, ..., in] goes through module `adapters[b]`."""

    def __init__(self, modules: list[nnx.Module]):
        self.definition, self.names = nnx.split(modules[0])[0], ()
        leaves = [nnx.to_pure_dict(nnx.split(module)[1]) for module in modules]
        for name in leaves[0]:
            setattr(self, name, nnx.Param(jnp.stack([part[name] for part in leaves])))
        self.names = tuple(leaves[0])

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow) -> jax.Array:
        chosen = {name: jnp.take(getattr(self, name)[...], rows.adapters, axis=0) for name in self.names}

        def one(leaves, x, key):
            given = None if key is None else PerRow(key[None], None)
            return nnx.merge(self.definition, leaves)(layer, x[None], given)[0]

        return jax.vmap(one, in_axes=(0, 0, None if rows.keys is None else 0))(chosen, x, rows.keys)


@dataclasses.dataclass(frozen=True)
class MultiAdapter(LayerMethod):
    """An adapter for each of `names` where `one` has a single one. Leaves have an axis [N] behind that of the layers.

    A batch says by "adapter" int [B] which row has which. Merging needs a choice: `pick` gives one of them as an adapter
    like any other, to merge, use and export.
    """

    one: LayerMethod
    names: tuple[str, ...]

    mergeable: ClassVar[bool] = False

    @property
    def field(self) -> str:  # type: ignore[override]
        return self.one.field

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.one.targets

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        return self.one.learning_rate

    @property
    def rates(self) -> Rules:
        return self.one.rates

    def updates(self, partition: Partition, steps: int) -> Updates:
        return self.one.updates(partition, steps)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        keys = [jax.random.fold_in(key, number) for number in range(len(self.names))]
        return EachRow([self.one.module(layer, path, site, k) for k in keys])

    def check(self, shapes: Mapping[str, Any]) -> None:
        """As `one` does. Also raises UserError for targets outside the blocks, which do not know whose row is whose."""
        super().check(shapes)
        self.one.check(shapes)
        own = [path for path, layer in layers(shapes).items() if layer.kind in self.kinds and self.targeted(path)]
        outside = [path for path in own if not path.startswith(STACK + "/")]
        if outside:
            raise UserError(f"config.tune.adapters: several adapters go into blocks alone, not into {outside[0]}")

    def number(self, name: str, field: str) -> int:
        """Which one `name` is. Raises UserError, naming `field`, where it is none."""
        if name not in self.names:
            raise UserError(f"{field}: no adapter {name!r}, only {', '.join(self.names)}{nearest(name, self.names)}")
        return self.names.index(name)

    def pick(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Whole parameters with one of the adapters, as a model with `one` has them."""
        flat = flatten(params)
        return unflatten({p: a[:, number] if is_added(p) else a for p, a in flat.items()})

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Raises UserError: which?"""
        raise UserError(f"the run cannot be merged: it has an adapter for each of {', '.join(self.names)}; choose one")


def apart(method: Method | None, partition: Partition) -> Apart | None:
    """Which of the partition's trainable leaves hold several adapters; None where the method has one, or none."""
    if method is None or not method.names:
        return None
    paths = frozenset(leaf.path for leaf in partition.leaves if leaf.trains and is_added(leaf.source))
    return Apart(len(method.names), paths)


def of(method: Method, names: tuple[str, ...]) -> Method:
    """`method` once for each of `names`, or itself where there are none. Raises UserError for a method that cannot."""
    if not names:
        return method
    if not isinstance(method, LayerMethod):
        raise UserError(
            "config.tune.adapters: several adapters are for one method that changes layers, not for several methods joined by '+'"
            if isinstance(method, Composed)
            else f"config.tune.adapters: several adapters are for a method that changes layers, not for {method.field}"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice or "" in names:
        raise UserError(f"config.tune.adapters: the name {twice[0] if twice else ''!r} is there twice, or empty")
    bad = [name for name in names if name == "test" or not re.fullmatch(r"[\w.-]+", name)]
    if bad:  # they are parts of the names of metrics (source_test is the test split) and of RUN#NAME
        raise UserError(f"config.tune.adapters: {bad[0]!r}: expected letters, digits, '_', '-' and '.', and not 'test'")
    return MultiAdapter(method, names)
