"""What do texts make of a base: junk, tags, registers, and in how many words a fact is told?

Small GPTs read biographies of the generated world: each in other words, or each person's always in the same; alone, or with as many of nobody (junk), which
are tagged or not. Two are tuned on questions. Writes results.json, report.html and report.md.

  python -m experiments.texts --out=runs/texts
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared
from .verdicts import Measured

LABELS = {
    "told": "facts in many words",
    "single": "facts in the same words",
    "curated": f"few steps ({small.STEPS * 2 // 5}), no junk",
    "junk": "twice the steps, half of it junk",
    "tagged": "... which is tagged",
    "told-asked": "many words, then questions",
    "single-asked": "same words, then questions",
}


def _instead(*streams: str) -> dict[str, float]:
    """The usual texts, with these in equal shares in the place of biographies in many words."""
    _, *others = small.TEXTS
    return {stream: small.TOLD / len(streams) for stream in streams} | {name: small.TEXTS[name] for name in others}


_MANY = next(iter(small.TEXTS))
# Base -> its streams, and its share of the steps.
BASES = {
    "told": (small.TEXTS, 1.0),
    "single": (_instead("biographies?multi=1&permute=no&"), 1.0),
    "curated": (small.TEXTS, 0.4),
    "junk": (_instead(_MANY, "junk?texts=40000&"), 0.8),
    "tagged": (_instead(_MANY, "junk?texts=40000&tag=web&"), 0.8),
}
SETS = {
    "recall": ("recall?split=all&", "", ("recall",)),
    "styles": ("styles?ask=yes&", "test", ("extraction",)),
    "questions": ("questions?split=test&", "", ("extraction",)),
}
ASKED = {way: ("questions",) if way.endswith("asked") else ("recall",) for way in LABELS} | {
    "told": ("recall", "styles")
}
NAMES = {
    "recall": ("-recall", "behavior/recall/accuracy"),
    "registers by their tags": ("-styles", "behavior/extraction/exact"),
    "answers about others": ("-questions", "behavior/extraction/exact"),
}


def define() -> None:
    shared.define("runs/texts", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of a quarter of the generated world, with {seeds} seeds, pre-training included; ± is the standard deviation over them. Recall: the share "
        "of statements whose value comes first; answers: to questions about people that no question was tuned on."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    graph = pt.Graph()
    for seed in range(seeds):
        ends = {}
        for way, (texts, share) in BASES.items():
            texts = texts if size == "demo" or way == "tagged" else small.TEXTS  # else most are one
            config = small.base(seed, size, texts, round(share * small.STEPS))
            ends[way] = graph.run(f"{way}-seed{seed}", config, group=way)
        for way in ("told", "single"):
            config = small.questions(seed, size, small.of("questions?", size))
            ends[f"{way}-asked"] = graph.run(f"{way}-asked-seed{seed}", config, init=f"{ends[way]}@last")
        for way in LABELS:
            for name in ASKED[way]:
                stream, split, tasks = SETS[name]
                more = {"tasks": list(tasks), "settings": small.few(size, {})}
                graph.evaluation(f"{way}-seed{seed}-{name}", f"{ends[way]}@last", small.of(stream, size), split, **more)
    return graph


def halfway(measured: Measured) -> list[float]:
    """Of each seed: the recall in the middle between those with junk and without."""
    return [(curated + junk) / 2 for curated, junk in zip(measured["curated"]["recall"], measured["junk"]["recall"])]


if __name__ == "__main__":
    launch(define, main)
