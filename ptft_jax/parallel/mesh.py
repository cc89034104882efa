"""The mesh of devices. There is one also on a single device, so that nothing is written twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ptft_jax.errors import UserError

# replica: rows of the batch, parameters copied. fsdp: rows of the batch, parameters split.
AXES = ("replica", "fsdp")


def make(replica: int = 0, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (replica, fsdp) mesh over `devices` (default: all). `replica` 0 takes what `fsdp` leaves.

    Raises:
      UserError: replica * fsdp is not the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    # A process' devices side by side: they hold a block of each batch (`ptft_jax.data.batches`).
    devices.sort(key=lambda device: device.process_index)
    if not replica:
        replica = max(len(devices) // fsdp, 1)
    if replica * fsdp != len(devices):
        raise UserError(f"parallel.replica * parallel.fsdp = {replica} * {fsdp}, but there are {len(devices)} devices")
    return Mesh(np.asarray(devices).reshape(replica, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_rows(counts: Mapping[str, int], devices: int) -> None:
    """Raises UserError where rows, by the setting that says how many, do not divide among the devices."""
    for name, count in counts.items():
        if count % devices:
            raise UserError(f"config.{name} = {count}: expected a multiple of the {devices} devices")
