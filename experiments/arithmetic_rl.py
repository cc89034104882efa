"""Does learning from rewards add to learning from examples?

A small GPT learns some addition from worked sums. It then goes on in two ways of equal compute: with more examples, or by GRPO, which
is told only whether its own answers are right. Both see the same sums, and are measured on sums that neither has seen, by the share of
exact answers. Writes results.json, report.html and report.md.

  python -m experiments.arithmetic_rl --out=runs/arithmetic_rl
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from ptft_jax.verbs.command import launch, prepare_experiment

from . import verdicts as shared
from .verdicts import Measured, above, claim

LABELS = {"start": "the start", "sft": "... then more examples", "grpo": "... then rewards (GRPO)"}
NAMES = {"exact answers": ("", "answers/exact")}
# Products of matrices per position and parameter: writing a token is a forward pass, learning from it a forward and a backward one.
WRITING, LEARNING = 2, 6
ROWS, LENGTH = 256, 16  # of a batch of answers: what is right of them says little where they are few
RATES = {"sft": 1e-3, "grpo": 1e-4}  # each the best of several by validation sums, see docs/claims.md
PARTS = {"train": 0.7, "validation": 0.1, "test": 0.2}  # shares of all pairs of numbers


def define() -> None:
    shared.define("runs/arithmetic_rl", "the start")


def main() -> int:
    prepare_experiment()
    lead = (
        "A small GPT that had learned some addition went on with more worked sums, or was told only whether its own answers are right (GRPO), "
        "at equal compute, with {seeds} seeds of each way, the start included; ± is the standard deviation over them. Exact answers: to sums "
        "of pairs of numbers that no run has seen."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, claims)


def claims(measured: Measured) -> list[dict[str, str]]:
    """A claim per way that it adds to the start, and one that rewards add more than examples."""
    exact = {way: measured[way]["exact answers"] for way in LABELS}
    return [
        claim("rewards add to what examples taught", above("exact answers", exact["start"], exact["grpo"])),
        claim("more examples add to it", above("exact answers", exact["start"], exact["sft"])),
        claim("at equal compute rewards add more than examples", above("exact answers", exact["sft"], exact["grpo"])),
    ]


def declared(data: pathlib.Path, size: str, seeds: int, part: str = "test") -> Any:
    """The graph of runs, whose data are written into a folder; `part`: what they are measured on."""
    import ptft_jax as pt

    demo = size == "demo"
    write_sums(data, most=100 if demo else 10)
    graph = pt.Graph()
    for seed in range(seeds):
        start = _run(graph, "start", _start(data, demo), data, seed, part)
        for way in LABELS:
            if way != "start":
                _run(graph, way, _going_on(way, data, demo), data, seed, part, f"{start}@last")
    return graph


def write_sums(folder: pathlib.Path, *, most: int, seed: int = 0) -> pathlib.Path:
    """Writes sums of two numbers below `most`, {"prompt": "3+4=", "completion": "7"} per line, in a file for each of `PARTS`; 3+4 and 4+3
    are one pair. Returns the folder."""
    from ptft_jax.runs.files import keep_rows

    pairs = [(a, b) for a in range(most) for b in range(a, most)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    ends = np.floor(np.cumsum(list(PARTS.values()))[:-1] * len(pairs) + 1e-6).astype(int)
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in zip(PARTS, np.split(order, ends)):
        sums = [sum_ for i in chosen for sum_ in dict.fromkeys([pairs[i], pairs[i][::-1]])]
        rows = [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a, b in sums]
        keep_rows(folder / f"{name}.jsonl", rows)
    return folder


def equal_steps(updates: int) -> int:
    """Steps on as many positions, whose products of matrices are those of so many steps on answers that the model wrote first."""
    return round(updates * (WRITING + LEARNING) / LEARNING)


def _run(graph: Any, way: str, config: Any, data: pathlib.Path, seed: int, part: str, parent: str = "") -> str:
    config.seed = seed
    config.eval.update(every=config.training.steps, test=False)
    config.eval.answers.update(
        source=f"jsonl:{data / part}.jsonl", verifiers=("exact",), records=2000, max_new_tokens=4
    )
    return graph.run(f"{way}-seed{seed}", config, init=parent, group=way)


def _start(data: pathlib.Path, demo: bool) -> Any:
    """From scratch, on worked sums, until some answers are right."""
    import ptft_jax as pt

    config = pt.recipe(f"pretrain/text:{data}")
    config.model.update(**({"layers": 3, "width": 128} if demo else {"layers": 1, "width": 32, "heads": 2}))
    config.model.max_length = 64
    config.data.update(source=f"jsonl:{data / 'train.jsonl'}", length=64, batch_size=16)
    config.optimizer.update(learning_rate=3e-3 if demo else 1e-2, warmup_steps=10)
    config.training.steps = 240 if demo else 60
    config.select.patience = 0
    return config


def _going_on(way: str, data: pathlib.Path, demo: bool) -> Any:
    """The second stage: by examples, or by rewards of its own answers."""
    import ptft_jax as pt

    updates = 80 if demo else 3
    config = pt.recipe(f"feedback/grpo:jsonl:{data / 'train.jsonl'}")
    config.tune.method = "full"
    config.data.update(length=LENGTH, batch_size=ROWS if demo else 32)
    if way == "grpo":
        config.objective.policy.update(samples=8, max_new_tokens=4)
        config.training.steps = updates
    else:
        config.objective.name = "causal_lm"
        config.training.steps = equal_steps(updates)
    config.eval.parent_data = False
    config.optimizer.update(learning_rate=RATES[way], warmup_steps=5)
    return config


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
