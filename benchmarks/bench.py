"""All comparisons by one command: `ptft bench`, or `make bench` with the peers in an environment of their own.

A folder gets benchmarks.json, benchmarks.md and figures/benchmarks-*.svg. What an earlier call measured and this one does not
is kept, so that cases can be measured one by one; docs/benchmarks.md is made so.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import (
    cases,
    decode_vs_transformers,
    growth,
    growth_of_files,
    image_input,
    input_pipeline,
    page,
    peers,
    stall,
    start,
    training,
    turns,
)
from ptft_jax import environment
from ptft_jax.errors import UserError, nearest

PEERS = ("torch", "transformers", "accelerate", "peft", "trl", "timm", "torchvision")
AXES = (*growth.AXES, "devices", "checkpoint")


def known(*, small: bool = False, quality: str = "") -> dict[str, Callable[[], dict[str, Any]]]:
    """Every case by name, and what measures it.

    Args:
      small: at a size that only shows that it runs.
      quality: the folder of `experiments.characters`.
    """
    seconds = 1.0 if small else 40.0
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, case in cases.cpu().items():
        case = cases.tiny(case) if small else case
        found[name] = lambda case=case: training.measure(case, seconds=seconds)
    for name in decode_vs_transformers.CASES:
        found[f"decoding-{name.replace(' ', '-').replace(',', '')}"] = lambda name=name: _decoding(name, small)
    found["start"] = lambda: start.measure(tiny=small)
    for axis in AXES:
        found[f"growth-{axis}"] = lambda axis=axis: growth.measure(axis, tiny=small)
    found["growth-runs"] = lambda: growth_of_files.runs(tiny=small)
    found["growth-corpus"] = lambda: growth_of_files.corpus(tiny=small)
    found["saving"] = lambda: stall.measure(tiny=small)
    found["input"] = lambda: input_pipeline.measure(tiny=small)
    found["image-input"] = lambda: image_input.measure(tiny=small)
    found["quality"] = lambda: _quality(quality)
    return found


def _decoding(name: str, small: bool) -> dict[str, Any]:
    if why := peers.lacks(("torch", "transformers")):
        return {"absent": why}
    case = decode_vs_transformers.CASE
    tiny = cases.tiny(case)
    tiny = dataclasses.replace(tiny, shape={**tiny.shape, "length": case.shape["length"]})  # its prompts are as long
    [row] = decode_vs_transformers.measure((name,), **({"case": tiny, "rounds": 1} if small else {}))
    return {"decoding": row}


def _quality(folder: str) -> dict[str, Any]:
    """What `python -m experiments.characters` found."""
    if not folder:
        return {"absent": "no --quality=FOLDER of a finished `python -m experiments.characters`"}
    path = pathlib.Path(folder) / "results.json"
    if not path.is_file():
        raise UserError(f"--quality={folder}: there is no {path}; `python -m experiments.characters` writes it")
    return json.loads(path.read_text(encoding="utf-8"))


def machine() -> dict[str, Any]:
    """What was measured on and with, JSON-able."""
    import jax

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "-"

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "revision": environment.revision(),
        "packages": {name: version(name) for name in ("jax", "jaxlib", "numpy", *PEERS)},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def run(
    only: Sequence[str], out: pathlib.Path, *, small: bool, quality: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measures cases, writes what was found after each, and returns all that the folder knows.

    Args:
      only: names of cases; () = all.
      out: the folder that is written to.
      small, quality: as for `known`.
      say: tells people.

    Raises:
      UserError: a case that there is not, or no results in `quality`.
    """
    measures = known(small=small, quality=quality)
    for name in only:
        if name not in measures:
            raise UserError(f"no case {name!r}{nearest(name, measures)}; there are {', '.join(measures)}")
    if "quality" in only:
        _quality(quality)  # said before anything is measured
    path = out / "benchmarks.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    on = machine()
    for name in only or measures:
        before = turns.load()
        say(f"{name} ...")
        began = time.monotonic()
        found = measures[name]()
        found |= {"machine": on, "load": [before, turns.load()], "tiny": small}
        if "absent" in found and isinstance(found["absent"], str):
            say(f"{name}: left out: {found['absent']}")
            if name in results:
                continue  # what is known stays
        else:
            say(f"{name}: {page.line(found)} ({time.monotonic() - began:.0f} s)")
        results[name] = found
        _write(out, results)
    return results


def _write(out: pathlib.Path, results: Mapping[str, Any]) -> None:
    text, figures = page.render(results)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    (out / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "benchmarks.md").write_text(text, encoding="utf-8")
    for name, svg in figures.items():
        (out / f"figures/benchmarks-{name}.svg").write_text(svg, encoding="utf-8")
