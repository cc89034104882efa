"""How much less data does a pre-trained model need?

Small GPTs learn from so many bytes of Shakespeare's histories: from one that was pre-trained on the other plays, and from scratch on ten times as
many bytes. Each run is measured where its validation loss was lowest, on other histories. Writes results.json, report.html and
report.md.

  python -m experiments.data_efficiency --out=runs/data_efficiency
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured, below, claim

COUNTS, TIMES = (2_000, 8_000, 32_000), 10
STARTS = {"tuned": "pre-trained", "scratch": "from scratch"}
SIZES = {**{f"tuned-{n}": n for n in COUNTS}, **{f"scratch-{TIMES * n}": TIMES * n for n in COUNTS}}
LABELS = {way: f"{STARTS[way.partition('-')[0]]}, {count:,} bytes" for way, count in SIZES.items()}
NAMES = {"nll": ("-test", "nll")}


def define() -> None:
    shared.define("runs/data_efficiency", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes that were pre-trained on Shakespeare's other plays, or not, learn from some bytes of his histories, with {seeds} seeds; "
        "± is the standard deviation over them. nll: nats per byte of held-out histories, at the step that was best on others."
    )
    return shared.main(
        "How much less data does a pre-trained model need?", lead, LABELS, NAMES, declared, claims, figures
    )


def claims(measured: Measured) -> list[dict[str, str]]:
    rows = []
    for count in COUNTS:
        tuned, scratch = measured[f"tuned-{count}"]["nll"], measured[f"scratch-{TIMES * count}"]["nll"]
        rows.append(
            claim(
                f"pre-trained with {count:,} bytes: as good as from scratch with ten times as many",
                below("nll", scratch, tuned),
            )
        )
    return rows


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", plays.base(seed, demo))
        for way, count in SIZES.items():
            if way.startswith("tuned"):
                config, start = plays.tuning(3e-4, seed, demo, tokens=count), f"{base}@last"
            else:
                config, start = plays.base(seed, demo), ""
                config.data.update(source=plays.SPECIAL, train_tokens=count if demo else 4000)
            if demo:  # few bytes are soon known by heart
                config.eval.every = 5 if start else 40
            run = graph.run(f"{way}-seed{seed}", config, init=start, group=way)
            graph.evaluation(f"{way}-seed{seed}-test", f"{run}@best", plays.SPECIAL, "test", tokens=config.eval.tokens)
    return graph


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    lines = {
        said: [
            [(count, statistics.mean(measured[way]["nll"])) for way, count in SIZES.items() if way.startswith(start)]
        ]
        for start, said in STARTS.items()
    }
    return [plots.curves(lines, title="Loss by data", x="bytes of the histories", y="nll", log=True)]


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
