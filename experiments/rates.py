"""What does a learning rate of fine-tuning cost: how much is learned, and how much forgotten?

A small GPT of the bytes of Shakespeare's plays without the histories learns these at rates from too low to too high. Gain: nats per byte that
histories become likelier; forgetting: what other plays become unlikelier, both held out. Writes results.json, report.html and report.md.

  python -m experiments.rates --out=runs/rates
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured, claim, rising

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LABELS = {f"{rate:g}": f"rate {rate:g}" for rate in RATES}
NAMES = {"new": ("", "validation/nll"), "old": ("", "source/nll")}


def define() -> None:
    shared.define("runs/rates", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "A small GPT of bytes that knows Shakespeare's comedies and tragedies learns from 40,000 bytes of the histories, with {seeds} seeds, "
        "pre-training included; ± is the standard deviation over them. New: nats per byte of held-out histories; old: of held-out other plays."
    )
    return shared.main("How high a rate may fine-tuning have?", lead, LABELS, NAMES, declared, claims, figures)


def claims(measured: Measured) -> list[dict[str, str]]:
    old, new = ([measured[way][name] for way in LABELS] for name in ("old", "new"))
    best = min(range(len(new)), key=lambda place: statistics.mean(new[place]))
    rows = [claim("the higher the rate, the more is forgotten", rising("nll of old plays by the rate", old))]
    rows.append(claim("beyond the best rate less is learned", rising("nll of new plays beyond it", new[best:])))
    return rows


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", plays.base(seed, demo))
        for way, rate in zip(LABELS, RATES):
            graph.run(
                f"{way}-seed{seed}",
                plays.tuning(rate if demo else RATES[-1], seed, demo),
                init=f"{base}@last",
                group=way,
            )
    return graph


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    lines = {
        f"{name} plays": [[(rate, statistics.mean(measured[way][name])) for way, rate in zip(LABELS, RATES)]]
        for name in NAMES
    }
    return [plots.curves(lines, title="Learned and forgotten by the rate", x="learning rate", y="nll", log=True)]


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
