"""Is a middle stage worth its tokens?

A small GPT is meant to know Python, of which little is given. It is pre-trained on Shakespeare's plays and fine-tuned on modules of Python's library
(two stages), or it spends a part of the pre-training's tokens on English about such modules, their documentation (three stages): the tokens
in all are the same. Writes results.json, report.html and report.md.

  python -m experiments.stages --out=runs/stages
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured, at_most, below, claim

NARROW, NEAR = "stdlib:code", "stdlib:prose"
STEPS, MIDDLE, END = 800, 200, 60
LABELS = {
    "two": "pre-training, fine-tuning",
    "three": "pre-training, documentation, fine-tuning",
    "without": "pre-training alone",
}
NAMES = {"nll": ("-code", "nll"), "nll of plays": ("-general", "nll")}
LOSS = 0.05  # what plays may lose


def define() -> None:
    shared.define("runs/stages", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes with two or three stages of training and the same tokens in all, with {seeds} seeds, pre-training included; ± is the "
        "standard deviation over them. nll: nats per byte of held-out modules, and of held-out plays."
    )
    return shared.main("Is a middle stage worth its tokens?", lead, LABELS, NAMES, declared, claims)


def claims(measured: Measured) -> list[dict[str, str]]:
    two, three = measured["two"], measured["three"]
    lost = [after - before for before, after in zip(two["nll of plays"], three["nll of plays"])]
    return [
        claim("three stages know the modules better than two, at equal tokens", below("nll", two["nll"], three["nll"])),
        claim("... and plays as well", at_most("rise of nll of plays over two stages", lost, LOSS)),
    ]


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    tokens = 30_000 if demo else 200
    for seed in range(seeds):
        ends = {}
        for way, steps in (("without", STEPS), ("shorter", STEPS - MIDDLE)):
            config = plays.base(seed, demo)
            if demo:
                config.training.steps, config.eval.every, config.optimizer.warmup_steps = steps, steps, steps // 10
            ends[way] = graph.run(f"{way}-seed{seed}", config, group=way)
        middle = plays.tuning(3e-3, seed, demo, steps=MIDDLE, tokens=0 if demo else 4000)
        middle.data.source = NEAR
        middle = graph.run(f"middle-seed{seed}", middle, init=f"{ends['shorter']}@last")
        last = plays.tuning(1e-3, seed, demo, steps=END, tokens=20_000)
        last.data.source = NARROW
        for way, before in (("two", ends["without"]), ("three", middle)):
            ends[way] = graph.run(f"{way}-seed{seed}", last, init=f"{before}@last", group=way)
        for way in LABELS:
            for name, source in (("code", NARROW), ("general", plays.GENERAL)):
                graph.evaluation(f"{way}-seed{seed}-{name}", f"{ends[way]}@last", source, "test", tokens=tokens)
    return graph


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
