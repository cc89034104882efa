"""The runs of `experiments.transfer`: what they are called, and their configs."""

from __future__ import annotations

from typing import Any

import ptft_jax as pt

TARGETS = {"roses": "shakespeare:roses", "code": "stdlib:code"}
METHODS = ("scratch", "full", "frozen", "lora")
RATES = {"scratch": 3e-3, "full": 1e-3, "frozen": 3e-3, "lora": 1e-2}
# Beyond the four ways, on the near target: what goes wrong. 32 rows are read 20 times over.
DANGERS = ("too_high", "tiny_data")
TOO_HIGH = 100


def seeds_of(target: str, seeds: int) -> range:
    """The seeds of a target's runs."""
    return range(seeds if target == "roses" else seeds - 1)


def kinds_of(target: str) -> tuple[str, ...]:
    """The kinds of a target's runs."""
    return METHODS + (DANGERS if target == "roses" else ())


def name_of(target: str, kind: str, seed: int) -> str:
    """The folder of a run."""
    return f"{target}-{kind}-seed{seed}"


def declared(size: str, seeds: int) -> Any:
    """The graph of all runs."""
    graph = pt.Graph()
    base = graph.run("base", base_config(size))
    for target in TARGETS:
        for kind in kinds_of(target):
            for seed in seeds_of(target, seeds):
                config = tune_config(size, base, target, kind, seed)
                graph.run(name_of(target, kind, seed), config, group=f"{target}-{kind}")
    return graph


def base_config(size: str):
    """Pre-training: general text, once over."""
    config = pt.recipe(f"pretrain/shakespeare:{'small' if size == 'demo' else 'tiny'}")
    config.model.scan = False
    if size == "demo":
        config.training.steps, config.optimizer.warmup_steps, config.eval.every = 700, 70, 140
    else:
        config.training.steps, config.optimizer.warmup_steps, config.eval.every = 20, 2, 10
    return config


def tune_config(size: str, base: str, target: str, kind: str, seed: int):
    """The second stage: 30,000 tokens of a target, by a method, or with one of the dangers. `base`: the reference to the first."""
    config = pt.recipe(f"finetune/shakespeare:{kind if kind in ('frozen', 'lora') else 'full'}")
    demo = size == "demo"
    steps = {"scratch": 160, "too_high": 20}.get(kind, 40) if demo else 8
    config.seed = seed
    config.data.update(source=TARGETS[target], train_tokens=30_000, length=128 if demo else 64)
    config.training.steps = steps
    config.optimizer.update(learning_rate=RATES.get(kind, RATES["full"]), warmup_steps=steps // 8)
    config.eval.update(every=steps // 5 if demo else 4, tokens=10_000 if demo else 1_000)
    texts = ("**KING HENRY VI**\n",) if target == "roses" else ("def read(self",)
    config.samples.prompts = texts if seed == 0 else ()
    if kind == "scratch":  # the same model and tokens, but random parameters
        config.model.update(**base_config(size).model)
        config.data.batch_size = 8  # more, smaller steps: what random parameters need
        config.tokenizer.update(kind="file", path=base)
    else:
        config.init.from_ = f"{base}@best"
    if kind in DANGERS:  # to the end: what is looked at is what happens, not what early stopping saves from
        config.select.patience = 0
    if kind == "too_high":
        config.optimizer.learning_rate = TOO_HIGH * RATES["full"]
    if kind == "tiny_data":
        config.data.train_tokens = 32 * config.data.length + 1
    return config
