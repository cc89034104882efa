"""Where each array of a state lies, and which are whole on every device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from ptft_jax.parallel import sharding
from ptft_jax.params.rules import path_of

LARGE = 1 << 20  # bytes from which a copied leaf is worth a line


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of the state: where each device has which part of it, and the bytes of that."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: tuple[Any, ...]
    bytes: int
    copied: bool


def of_state(state: Any) -> list[Leaf]:
    """The arrays of a state (as ShapeDtypeStructs with their shardings), the largest part first."""

    def leaf(key_path: Any, a: Any) -> Leaf:
        size = sharding.bytes_per_device(a, a.sharding)
        copied = a.sharding.num_devices > 1 and a.sharding.is_fully_replicated
        return Leaf(path_of(key_path), tuple(a.shape), str(a.dtype), tuple(a.sharding.spec), size, copied)

    found = [leaf(path, a) for path, a in jax.tree_util.tree_leaves_with_path(state)]
    return sorted(found, key=lambda one: -one.bytes)


def copied(leaves: Sequence[Leaf]) -> list[str]:
    """A line for each large array that every device holds whole."""
    return [
        f"copied: {leaf.path} {leaf.shape}, {leaf.bytes / 2**20:,.1f} MiB, is whole on every device (parallel.fsdp, parallel.rules)"
        for leaf in leaves
        if leaf.copied and leaf.bytes >= LARGE
    ]


def splits(mesh: jax.sharding.Mesh) -> bool:
    """Whether a mesh has an axis along which parameters are split."""
    return mesh.size > mesh.shape["replica"]
