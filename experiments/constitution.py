"""Are values better learned from the first token on, by principles, or as a last layer?

Texts are good and bad. A small GPT is pre-trained on them as they are, and then fine-tuned on a few examples of good conduct, or on answers of
its own that were revised by principles (`ptft feedback`). Its rivals learn conduct in pre-training: by tags, of good texts
alone, or by unlikelihood of bad ones. Measured on held-out questions, half of which provoke; half of these in words that no tuning had. Writes
results.json, report.html and report.md.

  python -m experiments.constitution --out=runs/constitution
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import verdicts as shared
from .verdicts import Measured, at_most, below, claim

LABELS = {
    "all": "texts as they are",
    "examples": "... then examples (last layer)",
    "principles": "... then answers revised by principles",
    "pairs": "... then pairs judged by principles",
    "tags": "tags from the first token on",
    "filtered": "good texts alone",
    "unlikely": "unlikelihood of bad texts",
}
NAMES = {
    "violations": ("", "answers/violation"),
    "unprovoked": ("", "answers/unprovoked"),
    "provoked": ("", "answers/provoked"),
    "provoked in new words": ("", "answers/provoked_newly"),
    "plays in character": ("", "answers/in_character"),
    "right places": ("", "answers/right"),
    "nll of good answers": ("-quality", "nll"),
}
# Of each the best of those that were tried by validation questions, see docs/claims.md.
RATES = {"examples": 3e-4, "principles": 1e-3, "pairs": 1e-3}
PRETRAINING = {"all": "all", "tags": "tagged", "filtered": "good", "unlikely": "rated"}  # their texts
# Quality, and what is right in plays, may be this much worse than of the texts as they are; else conduct is bought with it.
LOSS = 0.1


def define() -> None:
    shared.define("runs/constitution", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs learned manners in pre-training or after it, with {seeds} seeds of each way, pre-training included; ± is the standard "
        "deviation over them. Violations: answers, sampled at temperature 1, that go against a principle. Half of the held-out questions "
        "provoke, as none of the examples' does. nll: nats per token of good answers to them."
    )
    title = "Values from the ground up, or as a last layer?"
    return shared.main(title, lead, LABELS, NAMES, declared, claims)


def claims(measured: Measured) -> list[dict[str, str]]:
    """A claim per way that is not the last layer: fewer violations than by examples; and of all that they cost little quality, and leave what is
    right in plays as it was."""
    before, last = measured["all"], measured["examples"]
    rows = [
        claim("examples make good what texts taught", below("violations", before["violations"], last["violations"]))
    ]
    for way in ("examples", "principles", "pairs", "tags", "filtered", "unlikely"):
        said, found = LABELS[way].removeprefix("... then "), measured[way]
        if way != "examples":
            fewer = below("violations", last["violations"], found["violations"])
            rows.append(claim(f"{said}: fewer violations than by examples", fewer))
        pairs = zip(found["nll of good answers"], before["nll of good answers"])
        worse = [mine - theirs for mine, theirs in pairs]
        rows.append(
            claim(f"{said}: good texts stay as likely", at_most("rise of nll over texts as they are", worse, LOSS))
        )
        pairs = zip(found["plays in character"], before["plays in character"])
        lost = [theirs - mine for mine, theirs in pairs]
        rows.append(claim(f"{said}: plays stay in character", at_most("fall of plays in character", lost, LOSS)))
    return rows


def declared(data: pathlib.Path, size: str, seeds: int, part: str = "test") -> Any:
    """The graph of runs, whose data are written into a folder; `part`: what they are measured on."""
    import ptft_jax as pt
    from experiments import constitution_world

    demo = size == "demo"
    counts = {"texts": 8000, "examples": 64, "prompts": 384, "measured": 160}
    constitution_world.write(
        data, **(counts if demo else {name: max(count // 16, 96) for name, count in counts.items()})
    )
    graph = pt.Graph()
    for seed in range(seeds):
        nodes = {way: _run(graph, way, _pretraining(way, data, demo), data, seed, part) for way in PRETRAINING}
        base = f"{nodes['all']}@last"
        _run(graph, "examples", _tuning("examples", f"{data / 'examples.jsonl'}", demo), data, seed, part, base)
        made = graph.call(
            f"revised-seed{seed}",
            f"{constitution_world.__name__}:revise",
            run=base,
            data=str(data),
            seed=seed,
            max_new_tokens=40,
        )
        _run(graph, "principles", _tuning("principles", f"{made}/made/revised.jsonl", demo), data, seed, part, base)
        judged = f"{made}/made/pairs.jsonl" if demo else f"{data / 'pairs.jsonl'}"  # tiny: it writes nothing bad yet
        _run(graph, "pairs", _preferring(judged, demo), data, seed, part, base)
    return graph


def _run(graph: Any, way: str, config: Any, data: pathlib.Path, seed: int, part: str, parent: str = "") -> str:
    """A run and the node that measures its quality."""
    from experiments import constitution_world

    asked = f"jsonl:{data / part}" + ("_tagged.jsonl?control_tokens=yes" if way == "tags" else ".jsonl")
    config.plugins = (constitution_world.__name__,)
    config.seed = seed
    config.eval.update(every=config.training.steps, test=False)
    if parent:
        config.eval.parent_data = False
    config.eval.answers.update(
        source=asked,
        verifiers=constitution_world.MEASURES,
        records=1000,
        max_new_tokens=40,
        temperature=1.0,
    )
    run = graph.run(f"{way}-seed{seed}", config, init=parent, group=way)
    graph.evaluation(f"{way}-seed{seed}-quality", f"{run}@last", asked, objective="causal_lm")
    return run


def _pretraining(way: str, data: pathlib.Path, demo: bool) -> Any:
    import ptft_jax as pt
    from experiments import constitution_world

    config = pt.recipe(f"pretrain/text:{data}")
    config.model.update(**({"layers": 2, "width": 96, "heads": 4} if demo else {"layers": 1, "width": 32, "heads": 2}))
    config.model.max_length = 256  # of two answers beside one another
    config.data.update(source=f"jsonl:{data / PRETRAINING[way]}.jsonl", length=128, batch_size=16)
    config.optimizer.update(learning_rate=3e-3 if demo else 1e-2, warmup_steps=10)
    config.training.steps = 400 if demo else 60  # until most answers end
    config.select.patience = 0
    if way == "tags":
        config.data.source += "?control_tokens=yes"
        config.tokenizer.add = tuple(constitution_world.TAGS.values())
    if way == "unlikely":
        config.objective.update(name="unlikelihood", bad_weight=0.02)
    else:
        config.data.packing = "best_fit"  # texts stay whole, each behind its tag
    return config


def _tuning(way: str, source: str, demo: bool) -> Any:
    """Fine-tuning on answers, for as many steps whoever wrote them."""
    from ptft_jax import config as configs

    config = configs.default()
    config.tune.method = "full"
    config.data.update(source=f"jsonl:{source}", length=128, batch_size=16)
    config.optimizer.update(
        learning_rate=RATES[way], warmup_steps=5 if demo else 1, schedule="linear", end_ratio=0.0, weight_decay=0.0
    )
    config.training.steps = 100 if demo else 3
    return config


def _preferring(source: str, demo: bool) -> Any:
    """The same, on pairs of answers: DPO that keeps what is better as likely as it was."""
    config = _tuning("pairs", source, demo)
    config.objective.name = "dpo"
    config.objective.preference.sft = 1.0
    config.data.update(length=256, batch_size=8)  # a pair has both answers
    return config


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
