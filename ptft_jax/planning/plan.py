"""A training step compiled for devices that need not be there, and what it then takes of them."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ptft_jax import config as configs
from ptft_jax.data.pictures import settled as pictures
from ptft_jax.errors import UserError
from ptft_jax.parallel import cost
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel.leaves import Leaf, of_state
from ptft_jax.planning import flops, forms
from ptft_jax.planning.topologies import Topology
from ptft_jax.training.completion import resolve
from ptft_jax.training.trainer import Trainer

# Of a state, by what it is there for.
PARTS = {
    "trainable": "parameters that train",
    "frozen": "frozen parameters",
    "optimizer": "optimizer",
    "ema": "average",
    "anchor": "start",
    "fisher": "importance",
}
STATE_ALONE = "the state alone"
# What the compilers of several versions say that a program would need of a device, or its temporaries alone would.
_NEEDS = re.compile(r"(?:[Uu]sed |total memory required [\w ]*\()([\d.]+)([KMG]?)(?: of [\d.]+[KMG]? hbm|\) exceeds)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What devices send each other in a step: by kind, along which axes of the mesh, how often, and the bytes that a device ends up
    with."""

    kind: str
    axes: tuple[str, ...]
    times: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled step; bytes, operations and times are those of one device and one step.

    Attributes:
      topology: its name; `mesh`: axis -> devices along it.
      fits: whether it needs no more memory than a device has; None where that is not known.
      needs: bytes at the peak; `capacity`: those that a device has, None = not known.
      memory: bytes by kind: parts of the state, batch, temporary, program.
      leaves: of the state, the largest first.
      parameters, trainable: how many numbers the model has, and how many of them train.
      tokens: positions that a step reads.
      flops: of all matrix products of the model, all devices together.
      exchanges: the largest first.
      bounds: seconds that a step takes at least: of "products", "memory", "exchanges"; {} where the devices are not known.
      seconds: that compiling took.
      message: of the compiler, where it says that the step does not fit.
    """

    topology: str
    devices: int
    chips: int
    mesh: Mapping[str, int]
    fits: bool | None
    needs: int | None
    capacity: int | None
    memory: Mapping[str, int]
    leaves: Sequence[Leaf]
    parameters: int
    trainable: int
    tokens: int
    flops: int
    exchanges: Sequence[Exchange]
    bounds: Mapping[str, float]
    seconds: float
    message: str = ""

    @property
    def step(self) -> float | None:
        """Seconds that a step takes at least."""
        return max(self.bounds.values()) if self.bounds else None

    @property
    def utilization(self) -> float | None:
        """The most that the products can have of the devices' speed: of the time of a step, the share that they take."""
        return self.bounds["products"] / self.step if self.step else None


def plan(config: configs.Config, topology: Topology, *, tuned: bool | None = None) -> Plan:
    """Compiles the training step of a config for a topology. Nothing is run, and no data are read; of a parent that `init.from` names
    its description alone, which has the sizes.

    Args:
      config: with its sizes (model.vocab_size too), unless a parent has them.
      tuned: as of `Trainer`.

    Raises:
      UserError: settings that contradict each other, that do not divide among the devices, or that are not planned; no such parent.
    """
    section, tuned = completed(config, tuned)
    if section.parallel.compile != "jit":
        raise UserError(
            f"config.parallel.compile = {section.parallel.compile!r}: a program for each device is not planned; expected 'jit'"
        )
    mesh = meshes.of_options(section.parallel, topology.devices)
    meshes.check_rows(
        {"data.batch_size / training.micro_batches": section.data.batch_size // section.training.micro_batches},
        mesh,
    )
    trainer = Trainer(section, mesh=mesh, tuned=tuned)
    batch = forms.of(trainer)
    trainer.program.check(trainer.state_like, batch)
    placed = trainer.program.placed(batch)
    began = time.monotonic()
    traced = trainer.program.train.trace(trainer.state_like, placed)
    operations = flops.of_jaxpr(traced.jaxpr)
    leaves = of_state(trainer.state_like)
    memory = {
        name: sum(leaf.bytes for leaf in leaves if leaf.path.startswith(f"{part}/")) for part, name in PARTS.items()
    }
    held = sum(leaf.bytes for leaf in leaves)
    if section.optimizer.memory == "host":
        memory["optimizer, of the host"] = memory.pop("optimizer")
        held -= memory["optimizer, of the host"]
    facts = dict(
        topology=topology.name,
        devices=mesh.size,
        chips=topology.chips,
        mesh=dict(mesh.shape),
        capacity=None if topology.chip is None else round(topology.each(topology.chip.memory)),
        leaves=leaves,
        parameters=_count(trainer.shapes),
        trainable=_count(trainer.state_like.trainable),
        tokens=batch["inputs"].shape[0]
        * (section.data.length if section.model.image_size else batch["inputs"].shape[1]),
        flops=operations,
    )
    if facts["capacity"] is not None and held > facts["capacity"]:
        return Plan(
            **facts,
            fits=False,
            needs=held,
            memory={name: size for name, size in memory.items() if size},
            exchanges=(),
            bounds={},
            seconds=time.monotonic() - began,
            message=f"{STATE_ALONE} needs more memory than a device has, and is not compiled",
        )
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        return Plan(
            **facts,
            fits=False,
            needs=_needs(str(e)),
            memory={name: size for name, size in memory.items() if size},
            exchanges=(),
            bounds={},
            seconds=time.monotonic() - began,
            message=str(e).splitlines()[0],
        )
    found = cost.memory(compiled)
    memory |= {
        "batch": found["argument_bytes"] - held,
        "results": found["output_bytes"] - found["aliased_bytes"],
        "temporary": found["temporary_bytes"],
        "program": compiled.memory_analysis().generated_code_size_in_bytes,
    }
    needs = found["peak_bytes"] + memory["program"]
    exchanges = _exchanges(cost.parse(compiled.as_text()), mesh)
    return Plan(
        **facts,
        fits=None if facts["capacity"] is None else needs <= facts["capacity"],
        needs=needs,
        memory={name: size for name, size in memory.items() if size > 0},
        exchanges=exchanges,
        bounds=_bounds(topology, operations, found, exchanges, mesh),
        seconds=time.monotonic() - began,
    )


def completed(config: configs.Config, tuned: bool | None) -> tuple[configs.Section, bool | None]:
    """The settled config, with the sizes of its parent where it names one, and whether the run starts from a parent."""
    if not config.init.from_:
        section = configs.check(config, complete=False)
        values = section.as_dict()
        pictures.complete(values)
        settled = configs.settle(values, section.suggested)
        return configs.check(values, suggested=section.suggested, settled=settled), tuned
    try:
        section, parent = resolve(config)
    except UserError as e:
        advice = "a parent that is not there is planned by --tuned, its sizes (model), and no init.from"
        raise UserError(f"{e}; {advice}") from e
    return section, parent is not None


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _exchanges(program: cost.Program, mesh: Mesh) -> list[Exchange]:
    """What a program's exchanges come to, by kind and axes."""
    times: collections.Counter = collections.Counter()
    sizes: collections.Counter = collections.Counter()
    for one in program.collectives():
        key = one.kind, axes_of(one.group, mesh)
        times[key] += one.times
        sizes[key] += one.times * one.bytes
    return [Exchange(*key, times[key], size) for key, size in sizes.most_common()]


def axes_of(group: Sequence[int], mesh: Mesh) -> tuple[str, ...]:
    """The axes of a mesh along which devices differ, given by their numbers in it; () = all of them."""
    places = np.unravel_index(np.asarray(group or range(mesh.size)), tuple(mesh.shape.values()))
    return tuple(name for name, along in zip(mesh.axis_names, places) if len(set(along.tolist())) > 1)


def _bounds(
    topology: Topology, operations: int, memory: Mapping[str, int], exchanges: Sequence[Exchange], mesh: Mesh
) -> dict[str, float]:
    """Seconds that a step takes at least (Williams et al. 2009, "Roofline"): what is multiplied, what is in memory before and after and is
    read or written once (of what is temporary, both), and what is received over the links."""
    if topology.chip is None:
        return {}
    moved = memory["argument_bytes"] + memory["output_bytes"] + 2 * memory["temporary_bytes"]
    received = sum(got(one.kind, one.bytes, math.prod(mesh.shape[axis] for axis in one.axes)) for one in exchanges)
    return {
        "products": operations / mesh.size / topology.each(topology.chip.flops),
        "memory": moved / topology.each(topology.chip.bandwidth),
        "exchanges": received / topology.each(topology.chip.links),
    }


def got(kind: str, size: int, devices: int) -> float:
    """Bytes that a device receives at least in an exchange among so many, after which it has `size`."""
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":  # as much from each of the others
        return size * (devices - 1)
    times = 2 if kind == "all-reduce" else 1  # a reduction, and then a gathering
    return times * size * (devices - 1) / devices


def _needs(message: str) -> int | None:
    """The bytes that a compiler says a program would need."""
    found = _NEEDS.search(message)
    return round(float(found[1]) * _UNITS[found[2]]) if found else None
