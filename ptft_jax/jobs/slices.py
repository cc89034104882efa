"""Slices of TPUs as `ptft plan` names them, and what Cloud TPU, GKE and Vertex AI call them."""

from __future__ import annotations

import dataclasses
import math

from ptft_jax.errors import UserError, few, nearest
from ptft_jax.planning import topologies


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How one version of TPUs is called.

    Attributes:
      cloud: type for `gcloud compute tpus`; "" where it is on GKE alone.
      runtime: what Cloud TPU installs on its machines, for JAX.
      label: `cloud.google.com/gke-tpu-accelerator` of nodes.
      machine: what names of machines begin with.
      flat: whether slices are of two dimensions.
    """

    cloud: str
    runtime: str
    label: str
    machine: str
    flat: bool


# Google, "TPU software versions", "Plan TPUs in GKE" and the page of each version, read in 2026.
_KINDS = {
    "v4": _Kind("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu", False),
    "v5e": _Kind("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu", True),
    "v5p": _Kind("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu", False),
    "v6e": _Kind("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard", True),
    "tpu7x": _Kind("", "", "tpu7x", "tpu7x-standard", False),
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # of three dimensions; larger ones are made of cubes of 4x4x4
_PER_HOST = 4


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
      name: as it was given, such as v5e:4x4.
      shape: such as 4x4.
      chips, hosts: how many; on each host equally many.
    """

    name: str
    version: str
    shape: str
    chips: int
    hosts: int

    @property
    def per_host(self) -> int:
        return self.chips // self.hosts

    @property
    def runtime(self) -> str:
        return _KINDS[self.version].runtime

    @property
    def label(self) -> str:
        return _KINDS[self.version].label

    @property
    def machine(self) -> str:
        """Type of the machine of each host."""
        return f"{_KINDS[self.version].machine}-{self.per_host}t"

    def accelerator(self) -> list[str]:
        """Words for `gcloud compute tpus queued-resources create`. Raises UserError where Cloud TPU has none."""
        kind = _KINDS[self.version]
        if not kind.cloud:
            raise UserError(f"--topology={self.name}: Cloud TPU has none of these, GKE has: --on=gke")
        if kind.flat:
            return [f"--accelerator-type={kind.cloud}-{self.chips}"]
        return [f"--type={kind.cloud}", f"--topology={self.shape}"]


def of(name: str) -> Slice:
    """A slice by its name, such as v5e:4x4. Raises UserError for one that there is none of."""
    version, shape = topologies.parted(name)
    if version not in _KINDS:
        raise UserError(f"--topology={name}: a job needs a slice of TPUs, such as v5e:4x4")
    sides = [int(side) for side in shape.split("x")]
    chips = math.prod(sides)
    if _KINDS[version].flat:
        if shape not in _FLAT:
            raise UserError(f"--topology={name}: {version} has the shapes {few(_FLAT)}{_near(version, shape, _FLAT)}")
        return Slice(name, version, shape, chips, max(1, chips // _PER_HOST) if chips > 8 else 1)
    cubes = len(sides) == 3 and all(side % 4 == 0 for side in sides) and sides == sorted(sides)
    if shape not in _SMALL and not cubes:
        near = _near(version, shape, (*_SMALL, "4x4x4"))
        raise UserError(
            f"--topology={name}: {version} has the shapes {few(_SMALL)}, and AxBxC of multiples of 4 that do not fall{near}"
        )
    return Slice(name, version, shape, chips, chips // _PER_HOST)


def _near(version: str, shape: str, shapes: tuple[str, ...]) -> str:
    return nearest(f"{version}:{shape}", [f"{version}:{one}" for one in shapes])
