"""What does a small model know of a world whose truth is known, and what does tuning make of it?

A small GPT reads the generated world: people, sentences, contradictions, sums, two folks with skewed traits. Then it is tuned on questions, in
all wordings or in one, or on questions about the folks with both traits alike. Each model is asked what the claims need.
Writes results.json, report.html and report.md.

  python -m experiments.knowledge --out=runs/knowledge
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import verdicts as shared

LABELS = {
    "base": "pre-trained",
    "asked": "tuned on questions",
    "one": "tuned on one wording",
    "mended": "tuned on folks alike",
}
# Set -> source, split, tasks and their settings. {size} is the world's.
SETS: Mapping[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
    "grammar": ("grammar?ask=yes", "test", ("shares", "options"), {}),
    "recall": ("recall?split=all", "", ("recall",), {"records": 1000}),
    "later": ("recall?split=all&people=later", "", ("recall",), {"records": 1000}),
    "contradictions": ("contradictions?ask=yes", "test", ("shares",), {}),
    "sums": ("arithmetic?ask=yes", "test", ("recall",), {}),
    "lookup": ("lookup?ask=yes", "test", ("recall",), {}),
    "hops": ("questions?split=test&attributes=headquarters&templates=all", "", ("recall",), {"records": 500}),
    "name": ("recall?split=all&attributes=hobby&templates=0", "", ("probe",), {"probe": {"at": "person"}}),
    "asking": ("questions?split=all&attributes=hobby&templates=0", "", ("probe",), {}),
    "questions": ("questions?split=test", "", ("recall", "extraction"), {"records": 500, "match": "starts"}),
    "known": ("questions?split=test", "", ("known",), {"match": "starts"}),
    "wordings": (
        "questions?split=test&templates=all&attributes=city",
        "",
        ("paraphrases",),
        {"paraphrases": {"columns": ("person", "kind")}},
    ),
    "bias": ("groups?ask=yes&swaps=yes", "test", ("groups",), {"groups": {"measure": "first_option"}}),
}
ASKED = {
    "base": (
        *("grammar", "recall", "later", "contradictions", "sums", "lookup", "questions", "known", "bias"),
        *("name", "asking"),
    ),
    "asked": ("recall", "questions", "known", "wordings", "hops", "name", "asking"),
    "one": ("wordings",),
    "mended": ("recall", "bias"),
}
NAMES = {
    "KL to the true next words": ("-grammar", "behavior/shares/kl"),
    "agreement": ("-grammar", "behavior/options/accuracy"),
    "recall": ("-recall", "behavior/recall/accuracy"),
    "recall after the cut-off": ("-later", "behavior/recall/accuracy"),
    "distance to the sources' shares": ("-contradictions", "behavior/shares/total_variation"),
    "sums of unseen pairs": ("-sums", "behavior/recall/accuracy"),
    "what a key had": ("-lookup", "behavior/recall/accuracy"),
    "answers in two hops": ("-hops", "behavior/recall/accuracy"),
    "read off the name": ("-name", "behavior/probe/best"),
    "read off the question": ("-asking", "behavior/probe/best"),
    "answers about others": ("-questions", "behavior/extraction/exact"),
    "known from unknown (AUROC)": ("-known", "behavior/known/auroc"),
    "made up of the unknown": ("-known", "behavior/known/hallucination_unknown"),
    "spread over wordings": ("-wordings", "behavior/paraphrases/template_std"),
    "bias": ("-bias", "behavior/groups/gap"),
}


def define() -> None:
    shared.define("runs/knowledge", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of the generated world, with {seeds} seeds, pre-training included; ± is the standard deviation over them. People who are asked "
        "about are not those that were tuned on."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    graph, world = pt.Graph(), "c" if size == "demo" else "20"
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", _base(world, seed, size), group="base")
        ends = {"base": base}
        for way, source in (
            ("asked", "questions?"),
            ("one", "questions?templates=0&"),
            ("mended", "groups?ask=yes&skew=0.5&"),
        ):
            config = pt.recipe(f"world/questions:{world}")
            config.data.source = f"world:{source}size={world}"
            config.eval.parent_data = False
            ends[way] = graph.run(f"{way}-seed{seed}", _sized(config, seed, size), init=f"{base}@last", group=way)
        for way, end in ends.items():
            for name in ASKED[way]:
                source, split, tasks, settings = SETS[name]
                more = {"also": [_of("questions?split=test&people=unknown", world)]} if name == "known" else {}
                few = settings | {"max_new_tokens": 4} | ({} if size == "demo" else {"records": 100})
                graph.evaluation(
                    f"{way}-seed{seed}-{name}",
                    f"{end}@last",
                    _of(source, world),
                    split,
                    tasks=list(tasks),
                    settings=few,
                    **more,
                )
    return graph


def _of(stream: str, world: str) -> str:
    return f"world:{stream}&size={world}"


def _base(world: str, seed: int, size: str) -> Any:
    import ptft_jax as pt

    config = pt.recipe(f"world/pretrain:{world}")
    config.data.mixture = (*config.data.mixture, (f"world:groups?size={world}", 0.04))
    return _sized(config, seed, size)


def _sized(config: Any, seed: int, size: str) -> Any:
    """Without what is measured meanwhile; tiny: to see it run."""
    config.seed = seed
    config.eval.update(every=0, test=False)
    config.eval.answers.verifiers = ()
    if size != "demo":
        config.model.update(layers=1, width=32, heads=2)
        config.training.steps, config.optimizer.warmup_steps, config.data.batch_size = 2, 1, 4
        config.eval.tokens = 200
    return config


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
