"""What does pre-training on letters buy for handwritten digits?

Small ViTs learn from few labelled digits, or many: from random parameters, from a model that told letters apart, and from one that predicted
hidden parts of letters (masked autoencoding). What can be told from their states with nothing trained is measured by probes. One more
model learns letters and then all digits with one head for both, and is asked about letters before and after. Fonts of test letters are in
no training data. Writes results.json, report.html and report.md.

  python -m experiments.images --out=runs/images
  python -m experiments.images --out=runs/images --digits=mnist   # 5,000 of MNIST, in the place of 1,797 small digits: extra mnist
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from absl import flags

from ptft_jax.verbs.command import launch, prepare_experiment

from . import verdicts as shared
from .verdicts import Measured, above, below, claim

COUNTS = (30, 100, 1000)  # labelled digits
STARTS = {
    "scratch": "from random parameters",
    "supervised": "from letters by their classes",
    "masked": "from letters that were masked",
}
STATES = {"random": "random parameters", "letters": "letters by their classes", "pixels": "letters that were masked"}
LABELS = {
    **{f"{start}-{count}": f"{count:,} digits {said}" for start, said in STARTS.items() for count in COUNTS},
    **{name: f"states of {said}" for name, said in STATES.items()},
    "before": "letters, before digits",
    "after": "letters, after digits",
}
SHOTS = (1, 10, 50)  # digits of each kind that probes learn from
PROBES = ("ridge", "linear", "attention", "knn")
NAMES = {
    "accuracy": ("-test", "accuracy"),
    **{f"{probe} of {shots}": ("-told", f"probe/{probe}/{shots}") for probe in PROBES for shots in SHOTS},
}
LETTERS, DIGITS = "A,B,C,D,E,F,G,H,I,J", "zero,one,two,three,four,five,six,seven,eight,nine"
SIZE, PATCH = 28, 7


def define() -> None:
    shared.define("runs/images", "pre-training")
    flags.DEFINE_enum(
        "digits", "digits", ["digits", "mnist"], "Which handwritten digits: images:digits or images:mnist."
    )


def main() -> int:
    prepare_experiment()
    lead = (
        "Small ViTs of 28 x 28 pixels with {seeds} seeds, pre-training included; ± is the standard deviation over them. Accuracy: the share of held-out "
        "digits (of letters in the last two rows) that are named rightly. Probes learn from so many digits of each kind, and from what a model makes "
        "of them, with nothing of it trained."
    )
    return shared.main(__doc__.partition("\n")[0], lead, LABELS, NAMES, declared, claims, figures)


def claims(measured: Measured) -> list[dict[str, str]]:
    def accuracy(way: str, what: str = "accuracy") -> Any:
        return measured[way][what]

    few, many = COUNTS[0], COUNTS[-1]
    rows = []
    for start in ("supervised", "masked"):
        rows += [
            claim(f"{count:,} digits {STARTS[start]}: more than {STARTS['scratch']}", above("accuracy", accuracy(f"scratch-{count}"), accuracy(f"{start}-{count}")))
            for count in COUNTS
        ]  # fmt: skip
    for name in ("letters", "pixels"):
        told = f"ridge of {SHOTS[1]}"
        rows.append(
            claim(f"states of {STATES[name]} tell more than those of {STATES['random']}", above(told, accuracy("random", told), accuracy(name, told)))
        )  # fmt: skip
    return [
        *rows,
        claim(f"{few} digits {STARTS['supervised']} are worth less than {many:,} {STARTS['scratch']}", below("accuracy", accuracy(f"scratch-{many}"), accuracy(f"supervised-{few}"))),
        claim("letters are forgotten over digits", below("accuracy", accuracy("before"), accuracy("after"))),
    ]  # fmt: skip


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    letters = f"images:letters?draws={20 if demo else 2}"
    digits = f"images:{flags.FLAGS.digits}"
    named = f"{digits}?classes={DIGITS}"

    for seed in range(seeds):

        def run(name: str, recipe: str, source: str, parent: str = "", group: str = "", seed: int = seed) -> str:
            config = _made(pt.recipe(f"images/{recipe}:{source}"), demo, seed, bool(parent))
            config.training.steps = 1 if name == "random" else config.training.steps
            return graph.run(
                f"{name}-seed{seed}", config, init=f"{parent}@last" if parent else None, group=group or name
            )

        ends = {"random": run("random", "vit", letters), "letters": run("letters", "vit", letters), "pixels": run("pixels", "mae", letters)}  # fmt: skip
        for name in STATES:
            graph.evaluation(
                f"{name}-seed{seed}-told", f"{ends[name]}@last", digits, "test", probes=PROBES, shots=SHOTS, pooling="mean",
                seed=seed,
            )  # fmt: skip
        for count in COUNTS:
            few = f"{digits}?examples={count if demo else 30}"
            ends[f"scratch-{count}"] = run(f"scratch-{count}", "vit", few)
            for name, parent in (("supervised", "letters"), ("masked", "pixels")):
                ends[f"{name}-{count}"] = run(f"{name}-{count}", "transfer", few, ends[parent])
        mixed = pt.recipe(f"images/vit:{letters}&classes={LETTERS},{DIGITS}")
        mixed.model.classes = 20
        ends["before"] = graph.run(f"before-seed{seed}", _made(mixed, demo, seed, False), group="before")
        both = _made(pt.recipe(f"images/transfer:{named}"), demo, seed, True)
        both.init.fresh, both.model.head, both.model.classes, both.model.pooling = (
            (),
            "lm",
            2,
            "token",
        )  # the parent's, as it is
        ends["after"] = graph.run(f"after-seed{seed}", both, init=f"{ends['before']}@last", group="after")
        for way in LABELS:
            if way not in STATES:
                source = letters if way in ("before", "after") else digits
                graph.evaluation(f"{way}-seed{seed}-test", f"{ends[way]}@last", source, "test")
    return graph


def _made(config: Any, demo: bool, seed: int, tuned: bool) -> Any:
    """A recipe's run as this experiment makes it: of fewer patches, narrower, the same steps for all that learn from digits."""
    few = tuned or "images:letters" not in config.data.source
    config.seed, config.training.steps = seed, (300 if few else 1500) if demo else 4
    config.eval.update(every=0, test=False, pictures=0)
    config.data.batch_size = (32 if few else 64) if demo else 8
    config.data.augment.update(shift=2, turn=12.0, scale=0.15)
    config.model.dropout = 0.0
    config.model.pooling = "mean"
    config.optimizer.update(learning_rate=1e-3 if tuned else 2e-3)
    if config.objective.name == "masked_images":
        config.data.augment.crop, config.model.pooling = 1.0, "token"
        config.objective.hidden_patches = 0.6  # of so few
    if not tuned:
        config.model.update(
            layers=4 if demo else 1, width=64 if demo else 16, patch_size=PATCH, max_length=(SIZE // PATCH) ** 2 + 1
        )
    return config


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    def mean(way: str, what: str) -> float:
        return statistics.mean(measured[way][what])

    by_count = {
        said: [[(count, mean(f"{start}-{count}", "accuracy")) for count in COUNTS]] for start, said in STARTS.items()
    }
    drawn = [plots.curves(by_count, title="Accuracy by labelled digits", x="digits", y="accuracy", log=True)]
    for probe in PROBES:
        told = {s: {n: measured[name].get(f"{probe} of {n}") for n in SHOTS} for name, s in STATES.items()}
        lines = {said: [[(n, statistics.mean(v)) for n, v in values.items() if v]] for said, values in told.items()}
        drawn.append(plots.curves(lines, title=f"Told by {probe}", x="digits of each kind", y="accuracy", log=True))
    forgotten = {LABELS[way]: measured[way]["accuracy"] for way in ("before", "after")}
    return [*drawn, plots.dots(forgotten, title="Letters, before and after digits", x="each seed")]


graph = shared.graph(declared)


if __name__ == "__main__":
    launch(define, main)
