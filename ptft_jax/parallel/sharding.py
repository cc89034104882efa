"""Which device holds what, by path rules.

A rule's value is a tactic: "fsdp" splits along the axis tensor what that splits (`ptft_jax.parallel.tensor`), and of what is left the
largest axis that divides evenly over the fsdp axis (never the layer axis of a stack); "replicate" copies a leaf, and a tuple such as
(None, "fsdp", None) says it axis by axis. Where a parameter is used it is whole along fsdp, whatever its rule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ptft_jax.errors import UserError
from ptft_jax.model.layout import CONTEXT, HIDDEN, ROWS
from ptft_jax.model.quantized import plain_path
from ptft_jax.parallel import tensor
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
        return _split(path, shape, mesh)
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


def _split(path: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    along = _used(path, shape, mesh)
    size = mesh.shape["fsdp"]
    left = [n // _times(names(entry), mesh) for n, entry in zip(shape, along)]
    fits = [a for a in range(1 if path.startswith(STACK) else 0, len(shape)) if left[a] % size == 0 and left[a] > 1]
    if size > 1 and fits:
        best = max(fits, key=lambda a: (along[a] is None, left[a]))
        along[best] = "fsdp" if along[best] is None else (along[best], "fsdp")
    return _spec(along)


def _used(path: str, shape: Sequence[int], mesh: Mesh, whole: bool = False) -> list[Any]:
    """The mesh axis, or None, of each axis of a parameter where it is used, which is along expert and, unless it is `whole` there, tensor."""
    along: list[Any] = [None] * len(shape)
    for name, axis in (
        ("expert", tensor.expert_axis(path, shape, mesh.shape["expert"])),
        ("tensor", None if whole else tensor.axis_of(path, shape, mesh.shape["tensor"])),
    ):
        if axis is not None:
            along[axis] = name
    return along


def _spec(along: Sequence[Any]) -> PartitionSpec:
    return PartitionSpec(*along) if any(along) else PartitionSpec()


def _times(axes: Sequence[str], mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in axes)


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
    sizes = [_times(names(entry), mesh) for entry in sharding.spec]
    return sharding if all(n % size == 0 for n, size in zip(shape, sizes)) else None


def names(entry: Any) -> tuple[str, ...]:
    """The mesh axes of an entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def of_state(state: Any, by_path: dict[str, NamedSharding], mesh: Mesh) -> Any:
    """Shardings for a whole train state (as ShapeDtypeStructs): a leaf whose path ends in a parameter's path is laid
    out like that parameter where the axes agree (Adam's moments do, Adafactor's factors do not); others are copied."""

    def place(key_path, leaf):
        keys = path_rules.path_of(key_path).split("/")
        found = (of_stored("/".join(keys[start:]), leaf.shape, by_path, mesh) for start in range(len(keys)))
        return next((s for s in found if s is not None), NamedSharding(mesh, PartitionSpec()))

    return jax.tree_util.tree_map_with_path(place, state)


def of_host(tree: Any, shardings: Any) -> Any:
    """The same shardings of a tree of shaped leaves in the memory of each device's host; single numbers stay."""
    return jax.tree.map(lambda a, s: s.with_memory_kind("pinned_host") if a.shape else s, tree, shardings)


def on_one_device(path: str, shape: Sequence[int]) -> SingleDeviceSharding:
    """Everything on the first device: the layout of models that are loaded to be used, not trained."""
    return SingleDeviceSharding(jax.devices()[0])


@dataclasses.dataclass(frozen=True)
class Rows:
    """Pins activations [B, T, ...] to rows split over all devices but those along context and tensor, which have the same, and positions
    along context, where they divide; the transformer's layout."""

    mesh: Mesh

    @property
    def sharding(self) -> NamedSharding:
        """That of a batch: along context and tensor devices have the same."""
        return NamedSharding(self.mesh, PartitionSpec(ROWS))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, self._activations(x)))

    @property
    def context_parts(self) -> int:
        """Into how many parts the positions of a row are divided."""
        return self.mesh.shape[CONTEXT]

    @property
    def platform(self) -> str:
        """What the devices are, also where none of them is here."""
        return self.mesh.devices.flat[0].platform

    def _activations(self, x: Any) -> PartitionSpec:
        """Of [B, T, ...]; a few positions, such as those that a head reads, are whole on each device."""
        parts = self.context_parts
        return (
            PartitionSpec(ROWS, CONTEXT)
            if parts > 1 and x.ndim > 1 and x.shape[1] % parts == 0
            else PartitionSpec(ROWS)
        )

    def around(self, function: Callable[..., jax.Array], q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, seen: Any) -> jax.Array:
        """What a function gives of queries, keys, values and `ptft_jax.model.dot_product.Seen`, each device of its own rows and heads, and of its own
        part of the positions if these are divided; of what is said of keys it has all."""

        def rules(a: jax.Array) -> PartitionSpec:
            return PartitionSpec(ROWS) if a.ndim else PartitionSpec()

        def pair(given: Any) -> Any:
            return None if given is None else (PartitionSpec(ROWS, CONTEXT), PartitionSpec(ROWS))

        told = dataclasses.replace(jax.tree.map(rules, seen), segments=pair(seen.segments), prefix=pair(seen.prefix))
        where = PartitionSpec(ROWS, CONTEXT, HIDDEN, None)
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=(where, where, where, told), out_specs=where, check_vma=False
        )
        return mapped(q_BTNH, k_BTKH, v_BTKH, seen)

    def heads(self, x_BTNH: jax.Array) -> jax.Array:
        """Heads split along tensor; where there are fewer, of keys and values, each device gets a copy of the one that its queries read."""
        size = self.mesh.shape["tensor"]
        if size == 1:
            return x_BTNH
        if x_BTNH.shape[2] % size:
            x_BTNH = jnp.repeat(x_BTNH, size // x_BTNH.shape[2], axis=2)
        spec = PartitionSpec(ROWS, *(self._activations(x_BTNH)[1:] or (None,)), HIDDEN, None)
        return jax.lax.with_sharding_constraint(x_BTNH, NamedSharding(self.mesh, spec))

    def whole(self, params: Any) -> Any:
        """Parameters as they are used, whole on every device but for what expert and tensor split: they are gathered, and each device
        sums up the gradients of its own rows. Left alone, the compiler may gather the rows instead, which are far larger."""
        if self.mesh.size == self.mesh.shape["replica"]:
            return params

        def used(keys: Any, a: jax.Array) -> jax.Array:
            spec = _spec(_used(path_rules.path_of(keys), a.shape, self.mesh))
            return jax.lax.with_sharding_constraint(a, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(used, params)

    @property
    def expert_parts(self) -> int:
        """Devices that have some of a layer's experts each."""
        return self.mesh.shape["expert"]

    def experts(self, function: Callable[[Any, Any], jax.Array], rows: Any, params: Any) -> jax.Array:
        """What the experts of a layer, with `params`, make of rows [B, ...], each device of its own rows, which it exchanges with
        others along expert: a function that sorts all tokens as if there were one device, which the compiler would have every device do
        for all rows. Along tensor each has a part of every expert's hidden units, and the sums are added up; quantized kernels, whose
        blocks need not divide, are whole there."""
        flat = {path_rules.path_of(keys): a for keys, a in jax.tree_util.tree_leaves_with_path(params)}
        split = self.mesh.shape["tensor"] > 1 and not any(plain_path(path) != path for path in flat)

        def spec(keys: Any, a: jax.Array) -> PartitionSpec:
            return _spec(_used(f"mlp/experts/{path_rules.path_of(keys)}", a.shape, self.mesh, whole=not split))

        def own(rows: Any, params: Any) -> jax.Array:
            y = function(rows, params)
            return jax.lax.psum(y, "tensor") if split else y

        specs = jax.tree_util.tree_map_with_path(spec, params)
        where = PartitionSpec(ROWS)
        return jax.shard_map(own, mesh=self.mesh, in_specs=(where, specs), out_specs=where)(rows, params)


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes that one device holds of a tree of shaped leaves under the shardings of the same form."""

    def one(leaf, sharding):
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, tree, shardings)))
