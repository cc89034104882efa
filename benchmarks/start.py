"""From `ptft train` to its first step: the parts of that time, with empty caches and with full ones."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

# `ptft train`, left after the first step. What it imports and when is that of `ptft_jax.train.main`.
PROBE = """
import json, sys
from ptft_jax.reporting.clock import Clock, process_began
from ptft_jax.verbs.command import prepare_jax
clock = Clock(began=process_began())
with clock("import"):
    prepare_jax()
    from ptft_jax.parallel import processes
processes.join("", "", None)
with clock("import"):
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.training import assembly
folder, sources = sys.argv[1], sys.argv[2]
import ptft_jax as pt
config = pt.recipe(sources)
for setting in sys.argv[3:]:
    section, _, rest = setting.partition(".")
    name, _, value = rest.partition("=")
    setattr(config[section], name, json.loads(value))
import jax
class Left(Exception):
    pass
def leave(at):
    jax.block_until_ready(at.state.step)
    print(json.dumps(clock.by_part))
    raise Left
try:
    assembly.train(config, folder, reporter=Reporter(quiet=True), clock=clock, hooks=[(lambda at: at.step == 1, leave)])
except Left:
    pass
"""
# The base of `experiments.transfer`, on a text that is made here.
DEMO = ("pretrain/shakespeare:small", "model.scan=false")
TINY = ("pretrain/shakespeare:tiny", "tokenizer.vocab_size=300", "eval.tokens=200")
CHARACTERS, LETTERS = 1_000_000, 12  # of the text, about, and of its longest words; at tiny size a tenth
HELP = ["-m", "ptft_jax.cli", "--help"]


def measure(*, tiny: bool = False, rounds: int = 3) -> dict[str, Any]:
    """Seconds by part (`ptft_jax.reporting.clock.PARTS`) to the first step of the demo's base: "cold", with no cache, and
    "warm", the median of `rounds` further starts. "help": of `ptft --help`, from outside."""
    with tempfile.TemporaryDirectory() as folder:
        _write_text(pathlib.Path(folder) / "text.txt", tiny)
        cold, *warm = [_started(pathlib.Path(folder), number, tiny) for number in range(1 + (1 if tiny else rounds))]
        middle = sorted(warm, key=lambda parts: sum(parts.values()))[len(warm) // 2]
    return {"cold": cold, "warm": middle, "help": min(_help() for _ in range(rounds))}


def _started(folder: pathlib.Path, number: int, tiny: bool) -> dict[str, float]:
    source = f'data.source="text:{folder / "text.txt"}"'
    command = [sys.executable, "-c", PROBE, str(folder / f"run{number}"), *(TINY if tiny else DEMO), source]
    environment = {**os.environ, "PTFT_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start finds the bytecode of all modules
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise RuntimeError(f"a run did not start: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _write_text(path: pathlib.Path, tiny: bool) -> None:
    """Lines of words that are drawn as a language has them: few are frequent (Zipf)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, LETTERS))) for _ in range(5000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    count = CHARACTERS // LETTERS // (10 if tiny else 1)
    text = draw.choices(words, weights, k=count)
    path.write_text("\n".join(" ".join(text[at : at + 12]) for at in range(0, count, 12)) + "\n", encoding="utf-8")


def _help() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *HELP], check=True, capture_output=True)
    return time.perf_counter() - began
