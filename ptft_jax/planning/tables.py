"""A plan for people: tables, and what to change where it does not fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ptft_jax.config import Config
from ptft_jax.model.layout import ROWS
from ptft_jax.parallel import sharding
from ptft_jax.parallel.leaves import Leaf, copied
from ptft_jax.planning.chips import GIB
from ptft_jax.planning.plan import STATE_ALONE, Plan
from ptft_jax.planning.search import Tried

SHOWN = 8  # leaves, and exchanges


def of(
    plan: Plan, tried: Sequence[Tried] = (), *, tokens: float = 0.0, dollars: float = 0.0
) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of each table."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    found = [
        (f"{plan.topology}: {plan.devices} devices of {plan.chips} chips, {mesh}", _summary(plan, tokens, dollars)),
        ("memory of a device", _memory(plan)),
        ("largest arrays of the state", [_leaf(leaf) for leaf in plan.leaves[:SHOWN]]),
    ]
    if plan.exchanges:
        rows = [
            {
                "exchange": one.kind,
                "along": ", ".join(one.axes) or "-",
                "times": one.times,
                "MiB received": _mib(one.bytes),
            }
            for one in plan.exchanges[:SHOWN]
        ]
        found.append(("exchanges of a device in a step", rows))
    if tried:
        found.append(("tried, the best first", [_tried(one) for one in tried]))
    return found


def advice(config: Config, plan: Plan) -> list[str]:
    """What to change where a step does not fit, and large arrays that every device holds whole."""
    found = []
    if plan.fits is False:
        need = f"{plan.needs / GIB:.1f} GiB" if plan.needs else "more"
        what = "the state alone" if STATE_ALONE in plan.message else "it"
        found.append(
            f"does not fit: {what} needs {need} of the {(plan.capacity or 0) / GIB:.1f} GiB of a device"
            + _changes(config, plan)
        )
        if not plan.needs:
            found.append(f"the compiler: {plan.message}")
    return found + copied(plan.leaves)


def as_json(plan: Plan | None) -> dict[str, Any]:
    """Everything of a plan, of JSON's types."""
    if plan is None:
        return {}
    return {**dataclasses.asdict(plan), "step": plan.step, "utilization": plan.utilization}


def _changes(config: Config, plan: Plan) -> str:
    """What saves memory, of what is not used yet, what costs least time first."""
    c, some = config, []
    rows = c.data.batch_size // (c.training.micro_batches * math.prod(plan.mesh[axis] for axis in ROWS))
    if (copies := plan.mesh["replica"]) > 1:
        some.append(f"split the parameters over more devices (parallel.fsdp={plan.mesh['fsdp'] * _least(copies)})")
    if rows > 1:
        some.append(f"fewer rows at once (training.micro_batches={c.training.micro_batches * _least(rows)})")
    if c.model.remat != "full":
        some.append(f"recompute (model.remat='{'dots' if c.model.remat == 'none' else 'full'}')")
    if c.model.dtype == "float32":
        some.append("compute in bfloat16 (model.dtype)")
    if c.optimizer.name in ("adamw", "lion") and c.optimizer.moments == "plain":
        some.append("moments in 8 bits (optimizer.moments='8bit')")
    if not some:
        some.append("a larger slice, a shorter data.length, or fewer parameters that train (tune.method='lora')")
    return "; to change: " + ", ".join(some)


def _least(count: int) -> int:
    """The smallest factor of a number above 1."""
    return next(n for n in range(2, count + 1) if count % n == 0)


def _summary(plan: Plan, tokens: float, dollars: float) -> list[dict[str, Any]]:
    rows = [
        ("parameters", f"{plan.parameters:,}, of which {plan.trainable:,} train"),
        ("tokens per step", f"{plan.tokens:,}"),
        (
            "operations per step",
            f"{plan.flops / 1e12:,.3f} TFLOP, {plan.flops / plan.tokens / 1e9:.3f} GFLOP per token",
        ),
        ("fits", {True: "yes", False: "NO", None: "the memory of a device is not known"}[plan.fits]),
    ]
    if plan.step:
        parts = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in plan.bounds.items())
        rows += [
            ("time of a step, at least", f"{plan.step * 1e3:.2f} ms ({parts})"),
            ("utilization, at most", f"{plan.utilization:.0%}"),
            ("tokens per second, at most", f"{plan.tokens / plan.step:,.0f}"),
        ]
        days = tokens / plan.tokens * plan.step / 86_400
        if tokens:
            rows.append((f"{tokens:,.0f} tokens, at least", f"{days:.3g} days"))
        if tokens and dollars:
            rows.append(("cost, at least", f"${days * 24 * plan.chips * dollars:,.2f}"))
    rows.append(("compiled in", f"{plan.seconds:.0f} s"))
    return [{"": name, "value": value} for name, value in rows]


def _memory(plan: Plan) -> list[dict[str, Any]]:
    rows = [{"": name, "MiB": _mib(size)} for name, size in plan.memory.items()]
    if plan.needs is not None:
        rows.append({"": "at the peak", "MiB": _mib(plan.needs)})
    if plan.capacity is not None:
        rows.append({"": "a device has", "MiB": _mib(plan.capacity)})
    return rows


def _leaf(leaf: Leaf) -> dict[str, Any]:
    where = ", ".join("-" if names is None else " + ".join(sharding.names(names)) for names in leaf.spec)
    return {
        "array": leaf.path,
        "shape": " x ".join(map(str, leaf.shape)),
        "type": leaf.dtype,
        "split along": where if any(leaf.spec) else "copied" if leaf.copied else "-",
        "MiB": _mib(leaf.bytes),
    }


def _tried(one: Tried) -> dict[str, Any]:
    names = {path.rpartition(".")[2]: value for path, value in one.settings.items()}
    plan = one.plan
    if plan is None:
        return {**names, "GiB": "-", "ms": "-", "fits": one.reason}
    return {
        **names,
        "GiB": "-" if plan.needs is None else f"{plan.needs / GIB:.2f}",
        "ms": "-" if plan.step is None else f"{plan.step * 1e3:.2f}",
        "fits": {True: "yes", False: "no", None: "-"}[plan.fits],
    }


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"
