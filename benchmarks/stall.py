"""What saving costs training at the size of GPT-2's 124M, with a save every 100 steps."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import threading
import time
from typing import Any

from benchmarks import cases, setup

EVERY = 100  # steps from save to save


def measure(*, tiny: bool = False, rounds: int = 5) -> dict[str, Any]:
    """{"saving": seconds of "step", a median of steps while nothing is saved; "stall", while training waits for a save; "slowed", which
    the steps take longer that run while it is written; "written", from its begin until it is on disk and checked, beside these
    steps; and "parameters", "bytes" on disk}. Of two saves the second, with all imported."""
    import jax

    from ptft_jax.runs.saving import Checkpoints
    from ptft_jax.runs.workdir import Workdir

    case = cases.cpu()["124M"]
    case = cases.tiny(case) if tiny else case
    made = setup.trainer(case.shape, case.rows, scan=True)
    state, batch = made.init(0), made.program.place(setup.batch(case.shape, case.rows))

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = made.program.train(state, batch)
        jax.block_until_ready((state.step, metrics["loss"]))
        return time.perf_counter() - began

    step()
    alone = statistics.median(step() for _ in range(rounds))
    meta = {"data_position": 1, "select_metric": "validation/nll", "metrics": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with Checkpoints(folder, keep_latest=1, keep_best=1, mode="min") as checkpoints:
            checkpoints.save(state, made.stored_params(state), meta, None)
            checkpoints.wait()
            step()
            there = Workdir(folder).checkpoint(int(state.step)).path
            began = time.perf_counter()
            checkpoints.save(state, made.stored_params(state), meta, None)
            stall = time.perf_counter() - began
            seen = _Seen(there, began)
            beside = [step()]
            while seen.after is None:
                beside.append(step())
            size = sum(p.stat().st_size for p in there.rglob("*") if p.is_file())
    return {
        "saving": {
            "step": alone,
            "stall": stall,
            "slowed": max(sum(beside) - len(beside) * alone, 0.0),
            "written": seen.after,
            "bytes": size,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(made.shapes)),
        }
    }


class _Seen:
    """`after`: seconds from `began` until a folder is there; None until then."""

    def __init__(self, folder: pathlib.Path, began: float):
        self.after: float | None = None
        threading.Thread(target=self._look, args=(folder, began), daemon=True).start()

    def _look(self, folder: pathlib.Path, began: float) -> None:
        while not folder.is_dir():
            time.sleep(0.02)
        self.after = time.perf_counter() - began
