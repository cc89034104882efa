"""Does full tuning harm what a probe would have kept, where what is asked differs from what is tuned on?

A small GPT of the generated world learns what a statement up to its value is about (a city, a hobby, ...), from statements of one wording each: by its head alone
(a linear probe), fully at two rates, or by its head first. It is measured on that wording and on the other ones, about other people. Writes
results.json, report.html and report.md.

  python -m experiments.shifted --out=runs/shifted
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared

STEPS, RATE, HIGH = 120, 1e-3, 3e-3
LABELS = {
    "probe": "its head alone",
    "full": f"full, rate {RATE:g}",
    "high": f"full, rate {HIGH:g}",
    "first": f"its head first, then all at {RATE:g}",
}
ENDS = {"in": "the same wording", "out": "other wordings"}
NAMES = {what: (f"-{name}", "accuracy") for name, what in ENDS.items()}


def define() -> None:
    shared.define("runs/shifted", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "A small GPT of a quarter of the generated world tells what statements are about, with {seeds} seeds, pre-training included; ± is the standard deviation "
        "over them. Accuracy on statements about people that nothing was tuned on, in the wording that was tuned on and in others."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    classes = write_statements(data, size)
    sources = {name: f"jsonl:{data / name}.jsonl?classes={','.join(classes)}" for name in ("tuned", *ENDS)}
    graph = pt.Graph()
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", small.base(seed, size))
        for way in LABELS:
            config = small.questions(seed, size, sources["tuned"], steps=STEPS, rate=HIGH if way == "high" else RATE)
            config.objective.name = "classification"
            config.model.update(head="classes", classes=len(classes))
            config.init.fresh = ("head/.*",)
            if way == "probe":
                config.tune.train = "head"
                config.optimizer.learning_rate = 10 * RATE
            elif way == "first":
                config.optimizer.learning_rate = 10 * RATE
                config.tune.phases = ((0, "head"), (STEPS // 2 if size == "demo" else 1, "all", 0.1))
            run = graph.run(f"{way}-seed{seed}", config, init=f"{base}@last", group=way)
            for name in ENDS:
                graph.evaluation(f"{way}-seed{seed}-{name}", f"{run}@last", sources[name], "train")
    return graph


def write_statements(folder: pathlib.Path, size: str) -> list[str]:
    """`tuned.jsonl`: statements up to their value, of the first wording of each attribute, about people who are tuned on; `in.jsonl`, `out.jsonl`: of that
    wording and of the others, about others. Their class is the attribute; returns the classes."""
    from ptft_jax.data import records
    from ptft_jax.runs.files import keep_rows
    from ptft_jax.world.people import world

    wordings = {"tuned": ("0", "train"), "in": ("0", "test"), "out": ("1-2", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (templates, split) in wordings.items():
        rows = records.open_records(small.of(f"recall?templates={templates}&", size), split, held_out=0.1)
        told = map(rows.__getitem__, range(len(rows)))
        keep_rows(folder / f"{name}.jsonl", ({"text": row["prompt"], "label": row["kind"]} for row in told))
    return sorted(world(small.world(size)).spec.of_people)


if __name__ == "__main__":
    launch(define, main)
