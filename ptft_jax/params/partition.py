"""Splits parameters into what trains and what is frozen, before anything is differentiated.

Freezing then governs gradients, norms, clipping, optimizer memory and checkpoints alike: a frozen leaf is simply not
an input of the gradient. Where only some of the stacked layers train, the stack is cut into consecutive segments
(`blocks[0:2]`, `blocks[2:4]`), which the transformer runs one after the other, so no backward pass enters frozen
layers below the first trainable one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.model import quantized
from ptft_jax.params import rules as path_rules
from ptft_jax.params.rules import STACK, flatten, unflatten

_SEGMENT = re.compile(rf"{STACK}\[(\d+):(\d+)\]/(.*)")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One stored array: its path in the split trees, where it is cut from, the dtype it is kept in, and its learning-rate
    multipliers."""

    path: str
    source: str
    layers: tuple[int, int] | None  # the cut [start, stop) of the stack, None for the whole leaf
    shape: tuple[int, ...]
    dtype: Any
    rates: tuple[float, ...]  # one a layer for stacked leaves, else one; all zero = frozen
    phases: tuple[bool, ...] = (True,)  # whether it trains in each phase of the run, where rates are above zero

    @property
    def trains(self) -> bool:
        return self.rates[0] != 0.0

    @property
    def numbers(self) -> int:
        """How many of the model's numbers it holds, quantized or not."""
        return quantized.numbers(self.source, self.shape, self.dtype)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Partition:
    """The stored leaves of a model under ordered (pattern, rate) rules; rate 0 freezes, other rates multiply."""

    leaves: tuple[Leaf, ...]

    @classmethod
    def of(
        cls,
        shapes: Mapping[str, Any],
        rules: Sequence[tuple[str, float]],
        field: str = "config.tune.rates",
        layer_decay: float = 1.0,
        phases: Sequence[tuple[str, Sequence[tuple[str, float]]]] = (),
        kept: Callable[[str, Any, bool], Any] = lambda path, array, trains: array.dtype,
    ) -> Partition:
        """Cuts the parameters of `shapes` (nested dict of arrays or ShapeDtypeStructs) by rules.

        Args:
          layer_decay: what comes out of the last block keeps its rate; the last block's is multiplied by this once, the one
            before it twice, and so on down to the embeddings (Howard & Ruder 2018, section 3.2; Clark et al. 2020,
            "ELECTRA", appendix B). Rates of 0 stay 0.
          phases: (name, rules) of each phase of the run, one after the other: of what trains, that with a rate above 0 does
            so in the phase; () = all of it, all the time. What no phase trains is frozen.
          kept: (path, array, whether it trains) to the dtype that a leaf is kept in (`ptft_jax.params.precision.Kept`).

        Raises:
          UserError: a rule that matches nothing, a leaf that none covers, or nothing left to train, if only in a phase.
        """
        flat = flatten(shapes)
        sizes = {p: a.shape for p, a in flat.items()}
        rates = path_rules.assign(rules, sizes, field)
        for pattern, rate in rules:
            if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
                raise UserError(f"{field}: the rate of {pattern!r} is {rate!r}, expected a number >= 0 (0 freezes)")
        depth = max((len(r) for p, r in rates.items() if p.startswith(STACK + "/")), default=0)
        for path, row in rates.items():
            for i in range(len(row)):
                row[i] *= _layer_factor(path, i, depth, layer_decay)
        trains = {path: [(rate > 0,) for rate in row] for path, row in rates.items()}
        if phases:
            named = [path_rules.assign(chosen, sizes, name) for name, chosen in phases]
            for path, row in rates.items():
                trains[path] = [tuple(rate > 0 and phase[path][i] > 0 for phase in named) for i, rate in enumerate(row)]
                rates[path] = [rate if any(opened) else 0.0 for rate, opened in zip(row, trains[path])]
            for number, (name, _) in enumerate(phases):
                if not any(opened[number] for row in trains.values() for opened in row):
                    raise UserError(f"{name}: trains nothing of what the run trains ({field})")
        # A cut wherever any stacked leaf changes between frozen and trainable, if only in a phase.
        stacked = [row for p, row in trains.items() if p.startswith(STACK + "/")]
        cuts = [i for i in range(1, depth) if any(row[i] != row[i - 1] for row in stacked)]
        bounds = list(zip([0, *cuts], [*cuts, depth])) if cuts else [None]
        leaves = []
        for path, array in flat.items():
            is_stacked = path.startswith(STACK + "/")
            for bound in bounds if is_stacked else [None]:
                start, stop = bound or (0, len(rates[path]))
                stored = path if bound is None else f"{STACK}[{start}:{stop}]/{path[len(STACK) + 1 :]}"
                shape = (stop - start, *array.shape[1:]) if is_stacked else tuple(array.shape)
                own = tuple(map(float, rates[path][start:stop]))
                dtype = kept(path, array, own[0] != 0.0)
                leaves.append(Leaf(stored, path, bound, shape, dtype, own, trains[path][start]))
        if not any(leaf.trains for leaf in leaves):
            raise UserError(f"{field}: everything is frozen, nothing would train")
        return cls(tuple(leaves))

    def split(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(trainable, frozen): two nested dicts of stored leaves in the dtypes they are kept in, from whole parameters."""
        flat = flatten(join(params))
        parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for leaf in self.leaves:
            array = flat[leaf.source]
            array = array if leaf.layers is None else array[slice(*leaf.layers)]
            parts[not leaf.trains][leaf.path] = array if array.dtype == leaf.dtype else array.astype(leaf.dtype)
        return unflatten(parts[0]), unflatten(parts[1])

    def merge(self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the transformer takes them: segments of the stack become a tuple of stacks."""
        tree = unflatten({**flatten(trainable), **flatten(frozen)})
        segments = sorted(
            (k for k in tree if k.startswith(STACK + "[")), key=lambda k: int(k[len(STACK) + 1 :].split(":")[0])
        )
        if segments:
            tree[STACK] = tuple(tree.pop(k) for k in segments)
        return tree

    def frozen_in(self, phase: int) -> frozenset[str]:
        """The stored paths of what trains in the run, but not in a phase of it."""
        return frozenset(leaf.path for leaf in self.leaves if leaf.trains and not leaf.phases[phase])

    def multipliers(self) -> dict[str, Any]:
        """Learning-rate multipliers in the form of the trainable tree, broadcastable to its leaves."""
        return unflatten({leaf.path: _column(leaf, leaf.rates) for leaf in self.leaves if leaf.trains})

    def choose(self, rules: Sequence[tuple[str, float]], field: str) -> dict[str, Any]:
        """Numbers for the trainable tree by further path rules, broadcastable to its leaves.

        Not strict: default rules name leaves (biases) that some models do not have.
        """
        depth = max((leaf.layers[1] for leaf in self.leaves if leaf.layers), default=0)
        shapes = {f.source: (depth, *f.shape[1:]) if f.layers else f.shape for f in self.leaves if f.trains}
        values = path_rules.assign(rules, shapes, field, strict=False)
        out = {}
        for leaf in self.leaves:
            if leaf.trains:
                row = values[leaf.source]
                out[leaf.path] = _column(leaf, row[slice(*leaf.layers)] if leaf.layers else row)
        return unflatten(out)

    def mask(self) -> dict[str, Any]:
        """An Optax-style mask in the form of the stored leaves: True where a leaf trains."""
        return unflatten({leaf.path: leaf.trains for leaf in self.leaves})

    def table(self) -> list[dict[str, Any]]:
        """Rows (group, rate, leaves, parameters, dtype, bytes), one a rate, trainable first."""
        groups: dict[tuple[float, ...], list[Leaf]] = {}
        for leaf in self.leaves:
            groups.setdefault(tuple(sorted(set(leaf.rates))), []).append(leaf)
        rows = []
        for rates, leaves in sorted(groups.items(), reverse=True):
            rows.append(
                {
                    "group": "trainable" if leaves[0].trains else "frozen",
                    "rate": " ".join(f"{r:g}" for r in rates),
                    "leaves": len(leaves),
                    "parameters": sum(leaf.numbers for leaf in leaves),
                    "dtype": " ".join(sorted({np.dtype(leaf.dtype).name for leaf in leaves})),
                    "bytes": sum(leaf.bytes for leaf in leaves),
                    "paths": [leaf.path for leaf in leaves],
                }
            )
        return rows

    def count(self, trains: bool, phase: int | None = None) -> int:
        """The number of trainable (or frozen) parameters, of the run or of a phase of it."""
        frozen = frozenset() if phase is None else self.frozen_in(phase)
        return sum(f.numbers for f in self.leaves if (f.trains and f.path not in frozen) == trains)


def _layer_factor(path: str, layer: int, depth: int, decay: float) -> float:
    if path.startswith(STACK + "/"):
        return decay ** (depth - layer)
    return decay ** (depth + 1) if path.startswith(("embed/", "tower/")) else 1.0


def _column(leaf: Leaf, values: Sequence[float]) -> Any:
    """One number for the whole leaf, or a column with one number per layer."""
    if len(set(values)) == 1:
        return float(values[0])
    return np.asarray(values, np.float32).reshape((-1,) + (1,) * (len(leaf.shape) - 1))


def source_of(stored: str) -> str:
    """The whole parameter's path of a stored leaf: `blocks[0:2]/mlp/...` -> `blocks/mlp/...`."""
    found = _SEGMENT.match(stored)
    return f"{STACK}/{found[3]}" if found else stored


def layers_of(stored: str) -> slice:
    """The layers of the stack that a stored leaf has: `blocks[0:2]/mlp/...` -> 0 and 1; all where it is whole."""
    found = _SEGMENT.match(stored)
    return slice(int(found[1]), int(found[2])) if found else slice(None)


def join(params: Mapping[str, Any]) -> dict[str, Any]:
    """Whole parameters from stored ones: segments of the stack are concatenated. Works on shapes, too."""
    if isinstance(params.get(STACK), tuple):
        raise TypeError("join takes stored parameters, not what Partition.merge made of them")
    flat: dict[str, Any] = {}
    segments: dict[str, list[tuple[int, Any]]] = {}
    for path, array in flatten(params).items():
        found = _SEGMENT.match(path)
        if found:
            segments.setdefault(f"{STACK}/{found[3]}", []).append((int(found[1]), array))
        else:
            flat[path] = array
    for path, parts in segments.items():
        arrays = [array for _, array in sorted(parts, key=lambda part: part[0])]
        if isinstance(arrays[0], jax.ShapeDtypeStruct):
            layers = sum(a.shape[0] for a in arrays)
            dtype = functools.reduce(jnp.promote_types, (a.dtype for a in arrays))
            flat[path] = jax.ShapeDtypeStruct((layers, *arrays[0].shape[1:]), dtype)
        else:
            flat[path] = jnp.concatenate(arrays)
    return unflatten(flat)


def overlay(base: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Whole parameters from whole ones of a base and stored ones of a run on it, which take the place of the base's: of a
    stack, where only some layers are stored, those, and the whole in the wider dtype of the two."""
    flat, others = flatten(base), {}
    for path, array in flatten(stored).items():
        found, source = _SEGMENT.match(path), source_of(path)
        if found and source in flat:
            whole = jnp.asarray(flat[source])
            whole = whole.astype(jnp.promote_types(whole.dtype, array.dtype))
            flat[source] = whole.at[int(found[1]) : int(found[2])].set(array)
        else:
            others[path] = array
    return unflatten({**flat, **flatten(join(unflatten(others)))})
