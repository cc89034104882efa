"""How long it takes to list many runs, and to plan and carry out many nodes of which nothing is computed.

python -m benchmarks.many_runs --runs=10000 --nodes=1000

Prints JSON: seconds of `ptft runs` the first time (nothing is in the index) and again, and of Python's start in each, from outside and of
processors (which a busy machine stretches less); milliseconds per node of which nothing is computed, in this process. It leaves nothing behind.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        found = {"listing": listing(place, args.runs), "graph": graph(place, args.nodes)}
    print(json.dumps({"machine": f"{os.cpu_count()} x {platform.machine()}", **found}, indent=1))


def write_runs(folder: pathlib.Path, count: int) -> None:
    """Finished runs, as far as a listing reads them: settings, parents, curves of a row, results."""
    from ptft_jax import config as configs

    config = configs.check(configs.default(), complete=False).as_dict()
    for number in range(count):
        here = folder / f"sweep{number // 100}" / f"run{number}"
        here.mkdir(parents=True)
        config["seed"] = number
        parent = {"workdir": str(folder / "base"), "step": 7, "run_id": "x"}
        summary = {"finished": True, "step": 10, "after": {"validation/nll": number / count}, "transfer": None}
        row = {"step": 10, "kind": "eval", "validation/nll": number / count}
        for name, value in (("config", config), ("lineage", [parent]), ("summary", summary)):
            (here / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        (here / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def listing(folder: pathlib.Path, count: int) -> dict[str, Any]:
    """[seconds, seconds of processors] of `ptft runs` of so many, with an empty index and with a full one."""
    write_runs(folder / "runs", count)
    words = [sys.executable, "-m", "ptft_jax.cli", "runs", str(folder / "runs"), "--where=after.validation/nll<0.001"]
    environment = {**os.environ, "PTFT_CACHE": str(folder / "cache")}
    found: dict[str, Any] = {"runs": count}
    for name, command in (
        ("cold", words),
        ("again", words),
        ("python", [sys.executable, "-m", "ptft_jax.cli", "--help"]),
    ):
        began = time.perf_counter(), _processors()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        found[name] = [round(time.perf_counter() - began[0], 2), round(_processors() - began[1], 2)]
    return found


def _processors() -> float:
    """Seconds of processors that processes begun by this one have had."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def graph(folder: pathlib.Path, count: int) -> dict[str, Any]:
    """[milliseconds, of processors] per node of which nothing is computed, to plan, to carry out, and to find finished."""
    from ptft_jax.experiments import launch
    from ptft_jax.experiments.nodes import Graph
    from ptft_jax.reporting.progress import Reporter

    made = Graph()
    for number in range(count):
        parents = [f"node:n{number - 7}"] if number >= 7 else []
        made.call(f"n{number}", "benchmarks.many_runs:nothing", of=parents)
    found: dict[str, Any] = {"nodes": count}

    def carried_out() -> None:
        launch.launch(
            made, folder / "graph", by=launch.executor("inline", 1), reporter=Reporter(quiet=True), show=False
        )

    for name, do in (
        ("plan", lambda: launch.look(made, folder / "graph")),
        ("carry out", carried_out),
        ("again", carried_out),
    ):
        began = time.perf_counter(), time.process_time()
        do()
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        found[name] = [round(1000 * seconds / count, 2) for seconds in took]
    return found


def nothing(folder: pathlib.Path, **_: Any) -> dict[str, float]:
    """What nodes call."""
    return {"value": 1.0}


if __name__ == "__main__":
    main()
