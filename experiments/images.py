"""What does pre-training on letters buy for handwritten digits?

Small ViTs learn 100 labelled digits: from random parameters, from a model that told letters apart, and from one that predicted hidden parts of
letters (masked autoencoding); all of the model, or its head alone (a linear probe). One more learns letters and then all digits with one head for
both, and is asked about letters before and after. Fonts of test letters are in no training data. Writes results.json, report.html
and report.md.

  python -m experiments.images --out=runs/images
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import verdicts as shared
from .verdicts import Measured, above, below, claim

LABELS = {
    "scratch": "digits from random parameters",
    "supervised": "letters by their classes, then digits",
    "masked": "letters masked, then digits",
    "supervised-probe": "letters by their classes, then a probe of digits",
    "masked-probe": "letters masked, then a probe of digits",
    "before": "letters, before digits",
    "after": "letters, after digits",
}
NAMES = {"accuracy": ("-test", "accuracy")}
LETTERS, DIGITS = "A,B,C,D,E,F,G,H,I,J", "zero,one,two,three,four,five,six,seven,eight,nine"
LABELLED = 100  # digits


def define() -> None:
    shared.define("runs/images", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small ViTs of 28 x 28 pixels with {seeds} seeds, pre-training included; ± is the standard deviation over them. Accuracy: the share of held-out "
        f"digits (of letters in the last two rows) that are named rightly; {LABELLED} digits are labelled but for the last row, which has all."
    )
    return shared.main(__doc__.partition("\n")[0], lead, LABELS, NAMES, declared, claims)


def claims(measured: Measured) -> list[dict[str, str]]:
    found = {way: values["accuracy"] for way, values in measured.items()}
    return [
        claim("letters help with digits", above("accuracy", found["scratch"], found["supervised"])),
        claim("... also where they were only masked", above("accuracy", found["scratch"], found["masked"])),
        claim("a probe tells less than all of the model", below("accuracy", found["supervised"], found["supervised-probe"])),
        claim("masked letters make worse probes than classes", below("accuracy", found["supervised-probe"], found["masked-probe"])),
        claim("letters are forgotten over digits", below("accuracy", found["before"], found["after"])),
    ]  # fmt: skip


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    letters = f"images:letters?draws={20 if demo else 1}"
    few = f"images:digits?examples={LABELLED}"

    for seed in range(seeds):

        def run(name: str, recipe: str, source: str, parent: str = "", seed: int = seed, **model: Any) -> str:
            config = _shortened(pt.recipe(f"images/{recipe}:{source}"), demo, seed, bool(parent))
            config.model.update(**model)
            if name.endswith("probe"):
                config.tune.update(layer_decay=1.0, rates=(("head/.*", 1.0), (".*", 0.0)))
                config.optimizer.learning_rate = 1e-2
            return graph.run(f"{name}-seed{seed}", config, init=f"{parent}@last" if parent else None, group=name)

        ends = {
            "letters": run("letters", "vit", letters),
            "pixels": run("pixels", "mae", letters),
            "scratch": run("scratch", "vit", few),
        }
        for name, parent, pooling in (("supervised", "letters", "token"), ("masked", "pixels", "mean")):
            for way in (name, f"{name}-probe"):
                ends[way] = run(way, "transfer", few, ends[parent], pooling=pooling)
        ends["before"] = run("before", "vit", f"{letters}&classes={LETTERS},{DIGITS}", classes=20)
        both = _shortened(pt.recipe(f"images/transfer:images:digits?classes={DIGITS}"), demo, seed, True)
        both.init.fresh, both.model.head, both.model.classes = (), "lm", 2  # the parent's, as it is
        ends["after"] = graph.run(f"after-seed{seed}", both, init=f"{ends['before']}@last", group="after")
        for way in LABELS:
            source = letters if way in ("before", "after") else "images:digits"
            graph.evaluation(f"{way}-seed{seed}-test", f"{ends[way]}@last", source, "test")
    return graph


def _shortened(config: Any, demo: bool, seed: int, tuned: bool) -> Any:
    """A recipe's run as this experiment makes it: narrower, and of fewer steps."""
    steps = (200 if tuned else 400) if demo else 4
    config.seed, config.training.steps = seed, steps
    config.eval.update(every=0, test=False)
    config.data.batch_size = 32 if demo else 8
    if not tuned:
        config.model.update(layers=3 if demo else 1, width=64 if demo else 16)
    return config


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
