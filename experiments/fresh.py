"""What does a model that learns new facts forget, and what protects what it knew?

A small GPT that knows people of the generated world learns facts about people who are first written about later: fully tuned at several rates, with replay, held
near its start (EWC, L2-SP), in its last layer or a low-rank adapter alone; and averages of start and end, and of ends. Writes results.json, report.html and
report.md.

  python -m experiments.fresh --out=runs/fresh
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared
from .verdicts import Measured

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
RATE, STEPS = 1e-3, 100
PLAIN = tuple(f"rate-{rate:g}" for rate in RATES)
MEMBERS = PLAIN[1:]
TUNED = {
    **{way: f"tuned at {rate:g}" for way, rate in zip(PLAIN, RATES)},
    "replay": "... half of it what it knew",
    "ewc": "EWC",
    "l2_sp": "L2-SP",
    "last": "its last layer alone",
    "lora": "LoRA",
}
LABELS = {
    "base": "before",
    **TUNED,
    "wise": f"the mean of start and end at {RATE:g}",
    "soup": f"the mean of {len(MEMBERS)} ends",
}
SETS = {"new": "recall?split=all&people=later&", "old": "recall?split=all&"}
ASKED = {way: ("new", "old", *([""] if way in TUNED else [])) for way in LABELS}
NAMES = {
    "new": ("-new", "behavior/recall/accuracy"),
    "old": ("-old", "behavior/recall/accuracy"),
    "trainable parameters": ("", "trainable"),
}


def define() -> None:
    shared.define("runs/fresh", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of a quarter of the generated world learn facts about later people, with {seeds} seeds, pre-training included; ± is the standard deviation "
        "over them. New and old: recall of statements about these, and about those that they knew."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    graph = pt.Graph()
    for seed in range(seeds):
        base = graph.run(f"pretrained-seed{seed}", small.base(seed, size))
        ends = {"base": base}
        for way in TUNED:
            ends[way] = graph.run(f"{way}-seed{seed}", _config(way, seed, size), init=f"{base}@last", group=way)
        start = f"rate-{RATE:g}"
        ends["wise"] = graph.merge(f"wise-merge-seed{seed}", "interpolate", [f"{ends[start]}@last"], alpha=0.5)
        ends["soup"] = graph.merge(f"soup-merge-seed{seed}", "soup", [f"{ends[way]}@last" for way in MEMBERS])
        for way, end in ends.items():
            for name, stream in SETS.items():
                model = f"{end}@last" if way in TUNED or way == "base" else end
                settings = small.few(size, {})
                graph.evaluation(
                    f"{way}-seed{seed}-{name}", model, small.of(stream, size), "", tasks=["recall"], settings=settings
                )
    return graph


def _config(way: str, seed: int, size: str) -> Any:
    """Tuning on the new facts; `way`: of `TUNED`, of which all but LoRA are one where it is only to be seen to run."""
    demo = size == "demo"
    way = way if demo or way == "lora" else PLAIN[0]
    rates = dict(zip(PLAIN, RATES)) | {"last": 3e-3, "lora": 1e-2}
    config = small.questions(seed, size, small.of(SETS["new"], size), steps=STEPS, rate=rates.get(way, RATE))
    if not demo:  # steps too few for a batch about everybody
        config.data.batch_size = 4
    if way == "replay":
        texts = [small.of(stream, size) for stream in small.TEXTS]
        shares = [0.5 * share for share in small.TEXTS.values()]
        config.data.mixture = ((config.data.source, 0.5), *zip(texts, shares))
        config.data.length = 128
    elif way == "ewc":
        config.eval.parent_data = True  # which it asks what mattered to the parent
        config.tune.ewc.update(weight=1e4, rows=8, draws=64)
    elif way == "l2_sp":
        config.tune.l2_sp = 0.1
    elif way == "last":
        config.tune.train = "last:1"
    elif way == "lora":
        config.tune.method = "lora"
    return config


def frontier(measured: Measured, way: str) -> list[float]:
    """Of each seed: what is still known of the old by plain tuning that has learned as much of the new as a way, between the rates that were
    tried and the start; beyond the best of them, what that one knows."""
    rows = []
    for seed, new in enumerate(measured[way]["new"]):
        plain = [(measured[one]["new"][seed], measured[one]["old"][seed]) for one in ("base", *PLAIN)]
        rows.append(between(plain, new))
    return rows


def between(points: Sequence[tuple[float, float]], new: float) -> float:
    """The largest `old` at some `new` of the points (new, old), which may be mixed in pairs; of those with the most where none has so much."""
    reach = [old for there, old in points if there >= new]
    for low, high in ((one, other) for one in points for other in points if one[0] < new < other[0]):
        share = (new - low[0]) / (high[0] - low[0])
        reach.append(low[1] + share * (high[1] - low[1]))
    most = max(there for there, _ in points)
    return max(reach) if reach else max(old for there, old in points if there == most)


if __name__ == "__main__":
    launch(define, main)
