"""What does a model that learns era after era still know, and what helps?

A small GPT learns facts about people of the generated world who are first written about in one era, then about those of the next, and so on: without
more, with half of each batch about earlier eras (replay), or held by elastic weight consolidation (EWC). After every era it is measured on
all of them. Writes results.json, report.html and report.md.

  python -m experiments.continual --out=runs/continual
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import facts
from . import verdicts as shared
from .verdicts import Measured, claim, more

ERAS, GAIN = 3, 0.3
WEIGHTS = {"ewc": 100.0, "strong": 10_000.0}
LABELS = {
    "naive": "one era after the other",
    "replay": "half of it earlier eras",
    "ewc": "EWC, 100",
    "strong": "EWC, 10,000",
}
NAMES = {name: ("-transfer", name) for name in ("backward", "forward", "at the end")} | {
    f"era 0 after {era}": ("-transfer", f"era 0 after {era}") for era in range(ERAS)
}
NAMES["recall"] = ("-transfer", "recall")  # the matrix, see `transfer`


def define() -> None:
    shared.define("runs/continual", "every era")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs that learn facts about people of three eras, one after the other, with {seeds} seeds; ± is the standard deviation over them. "
        "Recall: the share of an answer's tokens that are right. Backward transfer: what recall of an era changes from when it was learned "
        "to the end, the mean over eras; forward: recall of an era before it is learned, over that of a random model (Lopez-Paz & Ranzato 2017)."
    )
    return shared.main(
        "What does a model still know after further eras?", lead, LABELS, NAMES, declared, claims, figures
    )


def claims(measured: Measured) -> list[dict[str, str]]:
    naive = measured["naive"]["backward"]
    return [
        claim(f"{LABELS[way]}: less is forgotten", more("backward transfer", naive, measured[way]["backward"], GAIN))
        for way in LABELS
        if way != "naive"
    ]


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    graph = pt.Graph()
    for seed in range(seeds):
        start = facts.config_of([f"0-{ERAS - 1}"], seed if size == "demo" else 0, 0, 3e-3)
        start.tokenizer.update(kind="bpe", vocab_size=512 if size == "demo" else 300)
        start = graph.run(f"start-seed{seed}", start)
        first = graph.run(f"era0-seed{seed}", _config("naive", 0, seed, size), init=f"{start}@last")
        scored = [_measured(graph, one) for one in (start, first)]
        for way in LABELS:
            model, found = first, list(scored)
            for era in range(1, ERAS):
                model = graph.run(f"{way}-era{era}-seed{seed}", _config(way, era, seed, size), init=f"{model}@last")
                found.append(_measured(graph, model))
            graph.call(f"{way}-seed{seed}-transfer", f"{__spec__.name}:transfer", scores=found)
    return graph


def _config(way: str, era: int, seed: int, size: str) -> Any:
    replays = way == "replay" and era > 0
    eras = [str(era), "0" if era == 1 else f"0-{era - 1}"] if replays else [str(era)]
    steps = 200 if size == "demo" else 2
    config = facts.config_of(eras, seed, steps, 3e-3, weights=(0.5, 0.5))
    config.tune.method, config.eval.parent_data = "full", False
    if way in WEIGHTS and era > 0:  # which asks what mattered to what the parent was trained on
        config.eval.parent_data = True
        config.tune.ewc.update(weight=WEIGHTS[way], rows=8, draws=64)  # a model that is sure needs many draws
    if size != "demo":  # those of all seeds and weights are one
        config.seed = 0
        config.tune.ewc.weight = min(config.tune.ewc.weight, WEIGHTS["ewc"])
    return config


def _measured(graph: Any, run: str) -> list[str]:
    """Evaluations of a run on each era."""
    name = run.removeprefix("node:")
    return [graph.evaluation(f"{name}-on{era}", f"{run}@last", facts.source(str(era)), "train") for era in range(ERAS)]


def transfer(folder: pathlib.Path, *, scores: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A node of a graph: the matrix of recalls R[i][j], on era j after i eras (0 = of a random model), and transfer by it.

    Args:
      scores: folders of evaluations, in that form.
    """
    from ptft_jax.runs.files import read_json
    from ptft_jax.runs.workdir import Workdir

    recall = [
        [read_json(Workdir(pathlib.Path(one)).node)["result"]["values"]["accuracy"] for one in row] for row in scores
    ]
    return {**transferred(recall), "recall": recall}


def transferred(recall: Sequence[Sequence[float]]) -> dict[str, float]:
    """Transfer by a matrix as of `transfer` (Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", equations 2 to 4)."""
    random, *after = recall
    eras = range(len(after))
    return {
        "backward": statistics.mean(after[-1][era] - after[era][era] for era in eras[:-1]),
        "forward": statistics.mean(after[era - 1][era] - random[era] for era in eras[1:]),
        "at the end": statistics.mean(after[-1]),
        **{f"era 0 after {era}": after[era][0] for era in eras},
    }


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    lines = {
        LABELS[way]: [[(era, statistics.mean(row[f"era 0 after {era}"])) for era in range(ERAS)]]
        for way, row in measured.items()
    }
    drawn = [plots.curves(lines, title="Recall of the first era", x="eras since", y="recall")]
    asked = [f"era {era}" for era in range(ERAS)]
    learned = ["random", *(f"after {era}" for era in asked)]
    for way, row in measured.items():
        drawn.append(plots.heat(mean_of(row["recall"]), learned, asked, title=f"Recall: {LABELS[way]}"))
    return drawn


def mean_of(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Cell by cell, over seeds."""
    return [[statistics.mean(cells) for cells in zip(*rows)] for rows in zip(*matrices)]


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
