"""Which device holds what, by path rules.

A rule's value is a tactic: "fsdp" splits a leaf's largest axis that divides evenly over the fsdp axis (never the
layer axis of a stack), "replicate" copies it, and a tuple such as (None, "fsdp", None) says it axis by axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ptft_jax.errors import UserError
from ptft_jax.parallel.mesh import AXES
from ptft_jax.params import rules as path_rules
from ptft_jax.params.partition import source_of
from ptft_jax.params.rules import STACK, flatten

DEFAULT_RULES = ((".*", "fsdp"),)


def spec_of(path: str, shape: Sequence[int], tactic: Any, mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec that a tactic gives a leaf. Raises UserError for a tuple that does not fit the leaf."""
    if tactic == "replicate":
        return PartitionSpec()
    if tactic == "fsdp":
        size = mesh.shape["fsdp"]
        axes = range(1 if path.startswith(STACK) else 0, len(shape))
        fits = [a for a in axes if shape[a] % size == 0 and shape[a] > 1]
        if size == 1 or not fits:
            return PartitionSpec()
        best = max(fits, key=lambda a: shape[a])
        return PartitionSpec(*["fsdp" if a == best else None for a in range(len(shape))])
    if not isinstance(tactic, (tuple, list)) or any(name not in (None, *AXES) for name in tactic):
        raise UserError(
            f"parallel.rules: {tactic!r} for {path} is not 'fsdp', 'replicate' or a tuple of None and {', '.join(AXES)}"
        )
    if len(tactic) != len(shape):
        raise UserError(f"parallel.rules: {tactic!r} has {len(tactic)} axes, {path} has {len(shape)} {tuple(shape)}")
    for axis, name in enumerate(tactic):
        if name and shape[axis] % mesh.shape[name]:
            raise UserError(
                f"parallel.rules: axis {axis} of {path} {tuple(shape)} does not divide by {name}={mesh.shape[name]}"
            )
    return PartitionSpec(*tactic)


def of_params(shapes: Any, rules: Sequence[tuple[str, Any]], mesh: Mesh) -> dict[str, NamedSharding]:
    """{path: sharding} of whole parameters, from a nested dict of anything with a shape."""
    flat = {path: tuple(leaf.shape) for path, leaf in flatten(shapes).items()}
    tactics = path_rules.assign(rules, flat, "parallel.rules", strict=tuple(rules) != DEFAULT_RULES)
    return {p: NamedSharding(mesh, spec_of(p, shape, tactics[p][0], mesh)) for p, shape in flat.items()}


def of_stored(stored: str, shape: Sequence[int], by_path: dict[str, NamedSharding], mesh: Mesh) -> NamedSharding | None:
    """The sharding of a leaf stored at a path (a segment of the stack is laid out like the stack), or None where the
    path is no parameter's, or the leaf has not its parameter's axes."""
    sharding = by_path.get(source_of(stored))
    if sharding is None or len(sharding.spec) not in (0, len(shape)):
        return None
    sizes = [mesh.shape[name] if name else 1 for name in sharding.spec]
    return sharding if all(n % size == 0 for n, size in zip(shape, sizes)) else None


def of_state(state: Any, by_path: dict[str, NamedSharding], mesh: Mesh) -> Any:
    """Shardings for a whole train state (as ShapeDtypeStructs): a leaf whose path ends in a parameter's path is laid
    out like that parameter where the axes agree (Adam's moments do, Adafactor's factors do not); others are copied."""

    def place(key_path, leaf):
        keys = path_rules.path_of(key_path).split("/")
        found = (of_stored("/".join(keys[start:]), leaf.shape, by_path, mesh) for start in range(len(keys)))
        return next((s for s in found if s is not None), NamedSharding(mesh, PartitionSpec()))

    return jax.tree_util.tree_map_with_path(place, state)


def on_one_device(path: str, shape: Sequence[int]) -> SingleDeviceSharding:
    """Everything on the first device: the layout of models that are loaded to be used, not trained."""
    return SingleDeviceSharding(jax.devices()[0])


@dataclasses.dataclass(frozen=True)
class Rows:
    """Pins activations [B, ...] to rows split over all devices; a callable the transformer applies at block edges."""

    mesh: Mesh

    @property
    def sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXES))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, self.sharding)

    def whole(self, params: Any) -> Any:
        """Parameters as they are used, whole on every device: they are gathered, and each device sums up the gradients of its own rows.
        Left alone, the compiler may gather the rows instead, which are far larger."""
        if self.mesh.shape["fsdp"] == 1:
            return params
        copied = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, copied), params)

    def apart(self, function: Callable[[Any, Any], jax.Array], rows: Any, shared: Any) -> jax.Array:
        """What a function makes of rows [B, ...] and of what they share, each device of its own rows. For what does not look across
        rows and is written as if it did, such as sorting all tokens: the compiler would have every device do it for all."""
        own, copied = PartitionSpec(AXES), PartitionSpec()
        return jax.shard_map(function, mesh=self.mesh, in_specs=(own, copied), out_specs=own)(rows, shared)


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes that one device holds of a tree of shaped leaves under the shardings of the same form."""

    def one(leaf, sharding):
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, tree, shardings)))
