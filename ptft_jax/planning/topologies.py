"""Machines by name: devices to compile for, of which none need be there.

v5e:16x16    a slice of TPUs, by its version and shape; needs the extra tpu (libtpu), and no TPU
cpu:8        this machine as so many devices
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.planning.chips import CHIPS, Chip

CPU = "cpu"
# What libtpu asks of its surroundings before it describes a slice that is not there: nobody's metadata server, some machine.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that belong together.

    Attributes:
      name: as it was given.
      devices: as `jax.sharding.Mesh` takes them.
      chips: how many they are parts of.
      chip: what each can do; None of a machine of which that is not known.
    """

    name: str
    devices: Sequence[Any]
    chips: int
    chip: Chip | None

    def each(self, figure: float) -> float:
        """What a device has of a figure of its chip."""
        return figure * self.chips / len(self.devices)


def prepare(name: str) -> None:
    """What has to be so before JAX is used for the first time in a process that compiles for a topology. Raises UserError for a name of
    none."""
    kind, _ = parted(name)
    os.environ["JAX_PLATFORMS"] = CPU  # nothing is run, and accelerators that are there stay free
    if kind != CPU:
        for variable, value in _ALONE.items():
            os.environ.setdefault(variable, value)


def parted(name: str) -> tuple[str, str]:
    """("v5e", "16x16") or ("cpu", "8"). Raises UserError."""
    kind, _, size = name.partition(":")
    known = (*CHIPS, CPU)
    if kind not in known:
        raise UserError(
            f"--topology={name}: expected NAME:SIZE with a name of {', '.join(known)}{nearest(kind, known)}"
        )
    if not re.fullmatch(r"[1-9]\d*" if kind == CPU else r"[1-9]\d*(x[1-9]\d*)*", size):
        example = "cpu:8" if kind == CPU else f"{kind}:{'4x4' if kind in ('v5e', 'v6e') else '2x2x1'}"
        raise UserError(f"--topology={name}: expected the size of the machine, such as {example}")
    return kind, size


def of(name: str) -> Topology:
    """A topology by its name; to be called after `prepare`. Raises UserError for a slice that there is none of, or without libtpu."""
    import jax

    kind, size = parted(name)
    if kind == CPU:
        jax.config.update("jax_num_cpu_devices", int(size))
        devices = jax.devices(CPU)
        return Topology(name, devices, len(devices), None)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as e:  # of libtpu, whatever it says
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        if any(words in reason for words in ("libtpu", "not installed", "Unknown backend")):
            raise UserError(
                f"--topology={name}: compiling for TPUs needs libtpu: pip install 'ptft_jax[tpu]' ({reason})"
            ) from e
        raise UserError(f"--topology={name}: no such slice: {reason}") from e
    devices = list(found.devices)
    chips = len({(getattr(d, "slice_index", 0), *d.coords) for d in devices})
    return Topology(name, devices, chips, CHIPS[kind])
