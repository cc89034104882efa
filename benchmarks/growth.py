"""How cost grows with depth, width, length, vocabulary, devices and the size of checkpoints.

All of a step: its seconds, the seconds of compiling it, and its memory as the compiler plans it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import setup, turns

SMALL = dict(vocab=256, length=64, layers=2, width=64, heads=2)
# What is changed -> its values, and the rows of a batch: of longer rows fewer, so that a step has as many tokens.
AXES: Mapping[str, Sequence[tuple[int, int]]] = {
    "layers": [(n, 8) for n in (2, 4, 8, 16, 32)],
    "width": [(n, 8) for n in (64, 128, 256, 512)],
    "length": [(n, 4096 // n) for n in (64, 128, 256, 512, 1024, 2048)],
    "vocab": [(n, 8) for n in (256, 1024, 4096, 16384, 65536)],
}
DEVICES = (1, 2, 4, 8)
WIDTHS = (128, 256, 512, 1024)  # of checkpoints, of 4 layers


def measure(axis: str, *, tiny: bool = False) -> dict[str, Any]:
    """{"points": {line: [{"x", "seconds", "compile", "bytes", ...}]}} of one of AXES, "devices" or "checkpoint"."""
    if axis == "devices":
        return {"points": {"fsdp": [_in_process(n) for n in (DEVICES[:2] if tiny else DEVICES)]}}
    if axis == "checkpoint":
        return {"points": {"float32": [checkpoint(width) for width in (WIDTHS[:1] if tiny else WIDTHS)]}}
    lines = {"scanned": True, "unrolled": False} if axis == "layers" else {"scanned": True}
    values = AXES[axis][:2] if tiny else AXES[axis]
    points = {
        line: [step({**SMALL, axis: value}, rows, scan=scan) | {"x": value} for value, rows in values]
        for line, scan in lines.items()
    }
    return {"points": points}


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """No compilation cache. JAX decides once per process whether it has one, and keeps to it whatever the setting says, so that it is asked again."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    kept = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()


def step(shape: Mapping[str, int], rows: int, *, scan: bool = True, devices: int = 1) -> dict[str, Any]:
    """What a step of this shape costs. Nothing is read from the compilation cache."""
    import jax

    from ptft_jax.parallel import cost

    made = setup.trainer(shape, rows, scan=scan, devices=devices)
    state, batch = made.init(0), made.program.place(setup.batch(shape, rows))
    with uncached():
        began = time.perf_counter()
        lowered = made.program.train.lower(state, batch)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics["loss"])

    run()
    [row] = turns.summary(turns.alternate({"": run}, seconds=1.5, least=0.1, rounds=(3, 7))).values()
    return {
        "seconds": row["seconds"],
        "trace": traced - began,
        "compile": done - traced,
        "bytes": cost.cost(compiled)["peak_bytes"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(made.shapes)),
    }


def _in_process(devices: int) -> dict[str, Any]:
    """A step on so many simulated devices, over which parameters and optimizer are divided (parallel.fsdp); they share this
    machine's cores, so that the time says what dividing the work costs, not what it gains."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.growth", str(devices)]
    root = str(pathlib.Path(__file__).resolve().parents[1])
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise RuntimeError(f"no step on {devices} devices: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def checkpoint(width: int) -> dict[str, Any]:
    """Saving the state of a model of this width after a step (moments of zeros would be compressed): "stall", the seconds that
    training waits; "seconds" until it is on disk and checked; "bytes" there. Of two saves the second, with all imported."""
    import jax

    shape = {**SMALL, "layers": 4, "width": width}
    made = setup.trainer(shape, 8, scan=True)
    state, _ = made.program.train(made.init(0), made.program.place(setup.batch(shape, 8)))
    jax.block_until_ready(state.step)
    found = [_saved(made, state) for _ in range(2)][-1]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.shapes))
    return {"x": parameters, "parameters": parameters, **found}


def _saved(made: Any, state: Any) -> dict[str, float]:
    from ptft_jax.runs.saving import Checkpoints
    from ptft_jax.runs.workdir import Workdir

    with tempfile.TemporaryDirectory() as folder:
        meta = {"data_position": 1, "select_metric": "validation/nll", "metrics": {}}
        with Checkpoints(pathlib.Path(folder), keep_latest=1, keep_best=1, mode="min") as checkpoints:
            began = time.perf_counter()
            checkpoints.save(state, made.stored_params(state), meta, None)
            stalled = time.perf_counter()
            checkpoints.wait()
            done = time.perf_counter()
            [where] = [p for p in Workdir(pathlib.Path(folder)).checkpoints.iterdir() if p.name.isdigit()]
            size = sum(p.stat().st_size for p in where.rglob("*") if p.is_file())
    return {"stall": stalled - began, "seconds": done - began, "bytes": size}


def main() -> None:
    """One point of "devices", in a process that has so many."""
    from ptft_jax.verbs.command import prepare_jax

    prepare_jax()
    devices = int(sys.argv[1])
    found = step({**SMALL, "width": 256, "layers": 4}, 8, devices=devices)
    print(json.dumps(found | {"x": devices}))


if __name__ == "__main__":
    main()
