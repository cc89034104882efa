"""Can one foundation have many specialists?

A small GPT of the generated world gets twelve low-rank adapters in one run, each of which learns where the people of another world live. Each is held against full
tuning on the same. An adapter that is loaded compares its base with that which it was trained on by its fingerprint: that all of them can be measured says that
the base is unchanged. Writes results.json, report.html and report.md.

  python -m experiments.specialists --out=runs/specialists
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared
from .verdicts import Measured

MANY = 12
NUMBERS = range(1, MANY + 1)
LABELS = {f"adapter-{n}": f"world {n}, an adapter" for n in NUMBERS} | {
    f"full-{n}": f"world {n}, full tuning" for n in NUMBERS
}
NAMES = {"recall": ("-own", "behavior/recall/accuracy")}


def define() -> None:
    shared.define("runs/specialists", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "A small GPT of a quarter of the generated world, twelve adapters on it and twelve models that were tuned from it, with {seeds} seeds, pre-training "
        "included; ± is the standard deviation over them. Recall: of where the people of the specialist's own world live."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    graph, demo = pt.Graph(), size == "demo"
    sources = {n: _source(n if demo else min(n, 2)) for n in NUMBERS}
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", small.base(seed, size))
        config = small.questions(seed, size, sources[1], steps=240, rate=1e-2)
        config.tune.method = "lora"
        trained = sources if demo else {n: sources[n] for n in (1, 2)}
        config.data.mixture = tuple((source, 1 / len(trained)) for source in trained.values())
        config.tune.adapters = tuple(f"world{n}" for n in trained)
        both = graph.run(f"adapters-seed{seed}", config, init=f"{base}@last")
        for n, source in sources.items():
            config = small.questions(seed, size, source, steps=40, rate=1e-3)
            full = graph.run(f"full-{n}-seed{seed}", config, init=f"{base}@last")
            ends = {f"adapter-{n}": f"{both}@last#world{n if demo else min(n, 2)}", f"full-{n}": f"{full}@last"}
            for way, end in ends.items():
                graph.evaluation(
                    f"{way}-seed{seed}-own", end, source, "", tasks=["recall"], settings=small.few(size, {})
                )
    return graph


def _source(number: int) -> str:
    return f"world:recall?size=20&split=all&attributes=city&templates=0&seed={number}"


def worst(measured: Measured) -> list[float]:
    """Of each seed: the smallest share of what full tuning recalls that an adapter does."""
    pairs = [(measured[f"adapter-{n}"]["recall"], measured[f"full-{n}"]["recall"]) for n in NUMBERS]
    return [min(one[seed] / max(full[seed], 1e-9) for one, full in pairs) for seed in range(len(pairs[0][0]))]


if __name__ == "__main__":
    launch(define, main)
