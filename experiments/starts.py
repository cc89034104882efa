"""What is a start worth, by how good it is and by how near the target?

Small GPTs of bytes are pre-trained on Shakespeare's plays without the histories for more and more steps, and each is tuned on a little of the histories.
The best one is held against a random start: after a fifth of the steps, on the histories in other letters (each letter stands for another), and on so little
that it is soon known by heart. Writes results.json, report.html and report.md.

  python -m experiments.starts --out=runs/starts
"""

from __future__ import annotations

import pathlib
import string
from typing import Any

import numpy as np

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured

STEPS = (100, 200, 400, 800)  # of the bases
TIMES, FAST, SHORT, FEW = 5, 40, 100, 2_000
RATES = {"near": 1e-3, "far": 1e-2}
LABELS = {
    **{f"base-{steps}": f"{steps} steps of pre-training" for steps in STEPS},
    **{f"child-{steps}": f"... after {steps} steps, tuned" for steps in STEPS},
    "fast": f"{FAST} steps of tuning",
    "slow": f"{TIMES * FAST} steps from scratch",
    "few-best": f"tuned on {FEW:,} bytes, at its best step",
    "few-last": "... and at its last",
    "far": "tuned on other letters",
    "far-scratch": "from scratch on other letters",
}
NAMES = {"nll": ("-new", "nll"), "nll of other plays": ("-old", "nll")}
ASKED = {way: ("new", "old") if way.startswith("base") else ("new",) for way in LABELS}


def define() -> None:
    shared.define("runs/starts", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes with better and worse starts, {seeds} seeds, pre-training included; ± is the standard deviation over them. nll: nats per byte "
        "of held-out histories, in the letters that were learned; of other plays: of those that bases are made of, held out."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    other = write_permuted(data)
    for seed in range(seeds):
        ends = {}
        for steps in STEPS:
            config = plays.base(seed, demo)
            if demo:
                config.training.steps, config.eval.every, config.optimizer.warmup_steps = steps, steps, steps // 10
            base = ends[f"base-{steps}"] = graph.run(f"base-{steps}-seed{seed}", config)
            ends[f"child-{steps}"] = _tuned(graph, f"child-{steps}", base, plays.SPECIAL, seed, demo, tokens=32_000)
        ends["fast"] = _tuned(graph, "fast", base, plays.SPECIAL, seed, demo, steps=FAST)
        ends["slow"] = _scratch(graph, "slow", plays.SPECIAL, seed, demo, TIMES * FAST)
        ends["few-last"] = _tuned(graph, "few", base, plays.SPECIAL, seed, demo, steps=2 * SHORT, tokens=FEW, every=10)
        ends["far"] = _tuned(graph, "far", base, other, seed, demo, rate=RATES["far"])
        ends["far-scratch"] = _scratch(graph, "far-scratch", other, seed, demo, SHORT)
        ends["few-best"] = ends["few-last"].replace("@last", "@best")
        for way in LABELS:
            source = other if way.startswith("far") else plays.SPECIAL
            for name in ASKED[way]:
                measured = (source, "test") if name == "new" else (plays.GENERAL, "test")
                model = ends[way] if "@" in ends[way] else f"{ends[way]}@last"
                graph.evaluation(f"{way}-seed{seed}-{name}", model, *measured, tokens=30_000 if demo else 200)
    return graph


def _tuned(
    graph: Any,
    way: str,
    base: str,
    source: str,
    seed: int,
    demo: bool,
    *,
    steps: int = SHORT,
    tokens: int = 0,
    rate: float = RATES["near"],
    every: int = 0,
) -> str:
    config = plays.tuning(rate if demo else RATES["near"], seed, demo, steps=steps, tokens=tokens if demo else 2_000)
    config.data.source = source
    config.eval.parent_data = False
    if demo:
        config.eval.every = every or steps
    return f"{graph.run(f'{way}-seed{seed}', config, init=f'{base}@last')}@last"


def _scratch(graph: Any, way: str, source: str, seed: int, demo: bool, steps: int) -> str:
    config = plays.base(seed, demo)
    config.data.source = source
    if demo:
        config.training.steps, config.eval.every, config.optimizer.warmup_steps = steps, steps, steps // 10
    return graph.run(f"{way}-seed{seed}", config)


def permuted(text: str, seed: int = 0) -> str:
    """A text in other letters: each stands for another one of its case."""
    order = np.random.default_rng(seed).permutation(26)
    there = "".join(letters[n] for letters in (string.ascii_lowercase, string.ascii_uppercase) for n in order)
    return text.translate(str.maketrans(string.ascii_lowercase + string.ascii_uppercase, there))


def write_permuted(folder: pathlib.Path) -> str:
    """The histories in other letters, as a source with the splits of the histories."""
    from ptft_jax.data import assets
    from ptft_jax.runs.files import keep_rows

    there = folder / "permuted"
    there.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        rows = [{"text": permuted(text)} for _, text in assets.shakespeare("histories", split)]
        keep_rows(there / f"{split}.jsonl", rows)
    return f"jsonl:{there}"


def correlations(measured: Measured) -> list[float]:
    """Of each seed: the rank correlation of the losses of bases with those of what was tuned from them (Spearman); 0 where all are alike."""
    from ptft_jax.objectives import correlation

    bases, children = (
        np.asarray([measured[f"{kind}-{steps}"][what] for steps in STEPS])
        for kind, what in (("base", "nll of other plays"), ("child", "nll"))
    )
    found = [correlation.pearson(*map(correlation.ranks, pair)) for pair in zip(bases.T, children.T)]
    return np.nan_to_num(found).tolist()


def gains(measured: Measured) -> list[float]:
    """Of each seed: by which share of the loss from scratch the start from a base lowers it, in other letters."""
    return [1 - tuned / scratch for tuned, scratch in zip(measured["far"]["nll"], measured["far-scratch"]["nll"])]


if __name__ == "__main__":
    launch(define, main)
