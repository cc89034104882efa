"""Few steps or many, along which schedule, and what if training is stopped early?

Small GPTs see the same number of bytes of Shakespeare's plays: along a constant rate, a cosine, a line or WSD; in many steps of few rows or few
steps of many. What they are at half of the way is compared with a run that was meant to end there. Writes results.json, report.html
and report.md.

  python -m experiments.schedules --out=runs/schedules
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured, below, claim

STEPS, RATE = 600, 1e-2
SHAPES = ("constant", "cosine", "linear", "wsd")
LABELS = {
    **{shape: shape for shape in SHAPES},
    "few": "cosine, a quarter of the steps",
    "short": "cosine, meant to end at half",
}
NAMES = {"nll": ("", "validation/nll"), "nll at half": ("-half", "nll")}


def define() -> None:
    shared.define("runs/schedules", "each schedule")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes, with {seeds} seeds of each schedule and the same tokens but for the short one, which has half of them; ± is the "
        "standard deviation over seeds. nll: nats per byte of held-out text, at the end and at half of the steps. A quarter of the steps has four "
        "times the rows and twice the rate."
    )
    return shared.main("Few steps or many, and along which schedule?", lead, LABELS, NAMES, declared, claims)


def claims(measured: Measured) -> list[dict[str, str]]:
    """Claims about the end, and about stopping at half."""
    end, half = ({way: row[name] for way, row in measured.items()} for name in ("nll", "nll at half"))
    rows = [
        claim(f"{shape}: a rate that falls ends lower", below("nll", end["constant"], end[shape]))
        for shape in SHAPES[1:]
    ]
    rows.append(claim("many small steps are better than few large ones", below("nll", end["few"], end["cosine"])))
    for shape in SHAPES:
        meant = below("nll", half[shape], end["short"])
        rows.append(claim(f"{shape}: stopped at half it is worse than a run that was meant to end there", meant))
    return rows


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    for seed in range(seeds):
        for way in LABELS:
            steps = {"few": STEPS // 4, "short": STEPS // 2}.get(way, STEPS) // (1 if demo else 50)
            config = plays.config_of(plays.WIDTH if demo else 16, steps, RATE, seed=seed if demo else 0)
            if way == "few":
                config.data.batch_size, config.optimizer.learning_rate = 4 * plays.ROWS, 2 * RATE
            config.optimizer.schedule = way if way in SHAPES else "cosine"
            config.eval.update(every=0, tokens=30_000 if demo else 200)
            config.checkpoint.update(every=steps // 2, keep_latest=3)
            run = graph.run(f"{way}-seed{seed}", config, group=way)
            tokens = config.eval.tokens
            graph.evaluation(
                f"{way}-seed{seed}-half", f"{run}@{steps // 2}", plays.GENERAL, "validation", tokens=tokens
            )
    return graph


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
