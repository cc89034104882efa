"""The mesh of devices. There is one also on a single device, so that nothing is written twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ptft_jax.errors import UserError
from ptft_jax.model.layout import CONTEXT, HIDDEN, ROWS

# replica: rows of the batch, parameters copied. fsdp: rows of the batch, parameters split where they are kept.
# expert: rows of the batch, experts split where they are kept and used. context: the same rows, other positions of them.
# tensor: the same rows, parameters split also where they are used.
# The last has the most to send, and the nearest devices.
AXES = (*ROWS, CONTEXT, HIDDEN)


def make(
    replica: int = 0,
    fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,
    *,
    expert: int = 1,
    context: int = 1,
    tensor: int = 1,
) -> Mesh:
    """A mesh of AXES over `devices` (default: all), near ones along the last axes.

    Args:
      replica, fsdp, expert, context, tensor: devices along each axis. One may be 0, what the others leave; `replica` is then 1 where another is.

    Raises:
      UserError: their product is not the number of devices, or the rows of a batch do not divide among processes or slices.
    """
    devices = list(devices if devices is not None else jax.devices())
    # A process' devices side by side: they hold a block of each batch (`ptft_jax.data.batches`).
    devices.sort(key=lambda device: device.process_index)
    sizes = {"replica": replica, "fsdp": fsdp, "expert": expert, "context": context, "tensor": tensor}
    shape = _sizes(sizes, len(devices))
    return Mesh(placed(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def of_options(parallel: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """As `make`, by `config.parallel`."""
    return make(
        parallel.replica,
        parallel.fsdp,
        devices,
        expert=parallel.expert,
        context=parallel.context,
        tensor=parallel.tensor,
    )


def row_groups(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_rows(counts: Mapping[str, int], mesh: Mesh) -> None:
    """Raises UserError where rows, by the setting that says how many, do not divide among the devices that have rows of their own."""
    parts = row_groups(mesh)
    where = "" if parts == mesh.size else f" along {', '.join(ROWS)}"
    for name, count in counts.items():
        if count % parts:
            raise UserError(f"config.{name} = {count}: expected a multiple of the {parts} devices{where}")


def _sizes(sizes: dict[str, int], count: int) -> tuple[int, ...]:
    """The sizes, with that which is to be what the others leave. Raises UserError."""
    open_ = [axis for axis, size in sizes.items() if not size and axis != "replica"]
    if len(open_) > 1:
        raise UserError(
            f"config.{' and config.'.join(f'parallel.{axis}' for axis in open_)} are 0: only one may be what is left"
        )
    if open_ and not sizes["replica"]:
        sizes["replica"] = 1
    [left] = open_ or ["replica"]
    if not sizes[left]:
        sizes[left] = max(count // math.prod(size for size in sizes.values() if size), 1)
    if math.prod(sizes.values()) == count:
        return tuple(sizes.values())
    named = {axis: size for axis, size in sizes.items() if axis in ("replica", "fsdp") or size != 1}
    given = f"{' * '.join(f'parallel.{axis}' for axis in named)} = {' * '.join(map(str, named.values()))}"
    near = [f"parallel.{axis}={_nearest(size, count)}" for axis, size in named.items() if count % size]
    advice = (
        f"; nearest that divides them: {', '.join(near)}"
        if near
        else "; parallel.replica=0 takes what the others leave"
    )
    raise UserError(f"config.{given}, but there are {count} devices{advice}")


def _nearest(size: int, count: int) -> int:
    """The divisor of `count` nearest to a size, the smaller of two."""
    return min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: (abs(n - size), n))


def placed(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices, given by process, in the shape of AXES by how they are wired.

    Those of a process are side by side along the rows of a batch, and all that have the same rows are of one process, as each reads its
    own. Slices, which only a network joins, are apart along replica, and the next of ROWS where that is not enough.

    Raises:
      UserError: that cannot be.
    """
    rows, same = math.prod(shape[: len(ROWS)]), math.prod(shape[len(ROWS) :])
    owners = [device.process_index for device in devices]
    each = owners.count(owners[0])
    if len(set(owners)) > 1 and each % same:
        named = [axis for axis, size in zip(AXES, shape) if size > 1 and axis not in ROWS]
        raise UserError(
            f"config.{' * '.join(f'parallel.{axis}' for axis in named)} = {same}: devices with the same rows have to be of one process, which has {each}; nearest "
            f"that divides them: {_nearest(same, each)}"
        )
    found = _wired(shape, devices).reshape(rows, same)
    of = np.vectorize(lambda device: device.process_index, otypes=[int])(found)
    if (of != of[:, :1]).any():  # near ones, but of several processes
        return np.asarray(devices).reshape(shape)
    return found[np.argsort(of[:, 0], kind="stable")].reshape(shape)


def _wired(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    from jax.experimental import mesh_utils

    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    outer, left = [], slices
    for size in shape:
        outer.append(math.gcd(size, left) if len(outer) < len(ROWS) else 1)
        left //= outer[-1]
    if left > 1:
        before = " * ".join(map(str, shape[: len(ROWS)]))
        raise UserError(
            f"config.parallel: the devices are {slices} slices, among which {' * '.join(ROWS)} = {before} does not divide; expected a multiple"
        )
    inner = [size // out for size, out in zip(shape, outer)]
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
