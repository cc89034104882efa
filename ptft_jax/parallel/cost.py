"""What a compiled program costs, from the compiler: operations and memory; and what is in it, from its optimized HLO."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_OF_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count[":{ ]+n"?:"?(\d+)')
# Where a backend does not note that: the number that a loop's condition compares its counter with.
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_DIMS = r"{}=\{{([\d,]*)\}}"
# Products that some backends hand to a library, in a form of their own.
_LIBRARY = re.compile(r'custom_call_target="[^"]*(gemm|matmul|cublas|cudnn|conv|fmha|onednn)', re.IGNORECASE)

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A matrix product or an exchange between devices in a compiled program, as one device runs it.

    Attributes:
      kind: "dot", or one of COLLECTIVES.
      shapes: of the results; a product has one.
      contracted: how many products each element of a "dot" sums up, else 0.
      times: how often the program runs it: loops are followed.
      bytes: of the results, once, as a device has them.
      group: of an exchange, the numbers of devices that take part in the first of its groups; () = all.
      scope: the operation's name in the traced function; backward passes have "transpose(jvp" in it.
    """

    kind: str
    shapes: tuple[Shape, ...]
    contracted: int
    times: int
    scope: str
    bytes: int = 0
    group: tuple[int, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations in all: two a multiply-add."""
        return 2 * self.times * self.contracted * sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Program:
    """The products and exchanges of an optimized program.

    Attributes:
      operations: see `Operation`.
      complete: False where a loop's length is not known to the compiler, or products are in a library's calls, which are not
        counted: `flops` would then be too few.
    """

    operations: tuple[Operation, ...]
    complete: bool

    @property
    def flops(self) -> int:
        return sum(o.flops for o in self.operations if o.kind == "dot")

    def dots(self) -> list[Operation]:
        return [o for o in self.operations if o.kind == "dot"]

    def collectives(self) -> list[Operation]:
        return [o for o in self.operations if o.kind != "dot"]


def parse(text: str) -> Program:
    """Reads optimized HLO (`compiled.as_text()`). The compiler's own count takes the body of a loop, such as that of scanned
    layers, once; here it counts as often as it runs."""
    found: dict[str, list[Operation]] = collections.defaultdict(list)
    called: dict[str, list[tuple[str, int | str]]] = collections.defaultdict(list)  # how often, or by which condition
    constants: dict[str, list[int]] = collections.defaultdict(list)
    entry, here, complete = "", "", True
    shapes: dict[str, tuple[Shape, ...]] = {}
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            here, shapes = head[2], {}
            entry = here if head[1] else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        name, form, kind, rest = instruction.groups()
        arrays = [(kind_, _numbers(dims)) for kind_, dims in _ARRAY.findall(form)]
        shapes[name] = tuple(shape for _, shape in arrays)
        scope = re.search(r'op_name="([^"]*)"', rest)
        where = scope[1] if scope else ""
        base = kind.removesuffix("-start")
        if kind == "dot":
            left = shapes[_NAME.findall(rest)[0]][0]
            axes = re.search(_DIMS.format("lhs_contracting_dims"), rest)
            contracted = math.prod(left[int(a)] for a in axes[1].split(",") if a) if axes else 1
            found[here].append(Operation("dot", shapes[name], contracted, 1, where, _bytes(arrays)))
        elif base in COLLECTIVES:
            if base != kind and base != "all-reduce":  # what is begun has its arguments among its results, first
                arrays = [(dtype, shape) for dtype, shape in arrays if shape]
                arrays = arrays[len(arrays) // 2 :]
            found[here].append(Operation(base, shapes[name], 0, 1, where, _bytes(arrays), _group(rest)))
        elif kind == "convolution" or (kind == "custom-call" and _LIBRARY.search(rest)):
            complete = False
        constants[here] += map(int, _CONSTANT.findall(line))
        times: int | str = 1
        if kind == "while":
            trips, condition = _TRIPS.search(rest), _CONDITION.search(rest)
            times = int(trips[1]) if trips else condition[1] if condition else ""
        targets = _CALLED.findall(rest)
        for branches in _BRANCHES.findall(rest):  # each counts: which is taken is not known
            targets += _NAME.findall(branches)
        called[here] += [(target, times) for target in targets]
    counted: dict[str, list[tuple[str, int]]] = {}
    for place, targets in called.items():
        counted[place] = []
        for target, times in targets:
            if isinstance(
                times, str
            ):  # counters that begin elsewhere than at 0, or go by more than 1, are not told apart
                known = constants[times]
                complete, times = False, known[0] if len(known) == 1 else 1
            counted[place].append((target, times))
    runs = _runs(entry, counted)
    operations = [dataclasses.replace(o, times=runs[place]) for place, rows in found.items() for o in rows]
    return Program(tuple(o for o in operations if o.times), complete)


def _numbers(text: str) -> Shape:
    return tuple(map(int, filter(None, text.split(","))))


def _bytes(arrays: list[tuple[str, Shape]]) -> int:
    """Of arrays, each an HLO type (f32, bf16, pred, ...) and a shape."""
    bits = 0
    for kind, shape in arrays:
        width = re.match(r"[a-z]+(\d+)", kind)
        bits += math.prod(shape) * (int(width[1]) if width else 8 * (kind == "pred"))
    return bits // 8


def _group(text: str) -> tuple[int, ...]:
    """The first group of devices that an exchange names; () where it names none."""
    if found := _LISTED.search(text):
        return _numbers(found[1])
    if found := _COUNTED.search(text):
        return tuple(_ordered(found[2], found[3])[: _numbers(found[1])[-1]].tolist())
    if not (found := _OF_MESH.search(text)):
        return ()
    axes = [part.partition("=") for part in found[1].split(",")]
    shape = tuple(int(size) for *_, size in axes)
    devices = _ordered(found[2], found[3]) if found[2] else np.arange(math.prod(shape))
    along = tuple(slice(None) if name in found[4].split(",") else 0 for name, *_ in axes)
    return tuple(devices.reshape(shape)[along].reshape(-1).tolist())


def _ordered(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in this shape, its axes in another order, flat."""
    sizes = _numbers(shape)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_numbers(order) if order else None).reshape(-1)


def _runs(entry: str, called: dict[str, list[tuple[str, int]]]) -> dict[str, int]:
    """How often each computation runs. HLO has no recursion, so the calls form a graph without cycles."""
    order: list[str] = []
    seen: set[str] = set()
    waiting = [(entry, False)]
    while waiting:  # callees before callers
        name, done = waiting.pop()
        if done:
            order.append(name)
        elif name not in seen:
            seen.add(name)
            waiting.append((name, True))
            waiting += [(target, False) for target, _ in called.get(name, ())]
    runs = collections.defaultdict(int, {entry: 1})
    for name in reversed(order):
        for target, times in called.get(name, ()):
            runs[target] += runs[name] * times
    return runs


def executable(train: Any, *args: Any) -> jax.stages.Compiled:
    """What a compiled function ran on such arguments. After such a call this compiles nothing: JAX keeps both the lowered
    and the compiled program."""
    return train.lower(*args).compile()


def cost(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What one call of a program costs.

    Returns:
      "devices": that run it, and, for each of them,
      "flops": of matrix products, loops followed; None where the program says it only in part (`Program.complete`),
      "compiler_flops": of all operations, by the compiler's own count, which takes a loop's body once,
      and what `memory` gives.
    """
    counted, program = compiled.cost_analysis(), parse(compiled.as_text())
    counted = counted[0] if isinstance(counted, list) else counted
    return {
        "devices": len(compiled.runtime_executable().local_devices()) * jax.process_count(),
        "flops": program.flops if program.complete else None,
        "compiler_flops": int((counted or {}).get("flops", 0)) or None,
        **memory(compiled),
    }


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """What a program takes of the memory of each device.

    Returns:
      "argument_bytes", "output_bytes", "aliased_bytes" (outputs in the place of arguments), "temporary_bytes",
      "peak_bytes": all of these together, aliased ones once; what else the process holds is not in it.
    """
    found = compiled.memory_analysis()
    arguments, outputs = found.argument_size_in_bytes, found.output_size_in_bytes
    aliased, temporary = found.alias_size_in_bytes, found.temp_size_in_bytes
    return {
        "argument_bytes": arguments,
        "output_bytes": outputs,
        "aliased_bytes": aliased,
        "temporary_bytes": temporary,
        "peak_bytes": arguments + outputs - aliased + temporary,
    }
