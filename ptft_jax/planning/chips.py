"""What accelerators are capable of, as their makers state it."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. A device of JAX is a chip, or a part of one.

    Attributes:
      kinds: what JAX calls its devices.
      memory: bytes.
      flops: bfloat16 operations per second.
      bandwidth: of the memory, bytes per second.
      links: to other chips of its slice, bytes per second one way.
    """

    kinds: tuple[str, ...]
    memory: float
    flops: float
    bandwidth: float
    links: float


# Google, "Cloud TPU documentation", the page of each version, read in 2026: peak compute, HBM capacity and bandwidth, and half of the
# bidirectional inter-chip bandwidth, each per chip.
CHIPS: dict[str, Chip] = {
    "v4": Chip(("TPU v4",), 32 * GIB, 275e12, 1228e9, 150e9),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 32 * GIB, 918e12, 1640e9, 400e9),
    "tpu7x": Chip(("TPU7x", "TPU v7x", "TPU v7"), 192 * GIB, 2307e12, 7380e9, 600e9),
}
