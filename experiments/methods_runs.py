"""The runs of `experiments.methods`: every way to fine-tune, and the rates that are tried for it."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

from experiments import transfer_runs
from ptft_jax.config import Config, default
from ptft_jax.experiments.graph import with_changes

TARGET = "stdlib:code?examples=8"  # modules of Python's library, some 30,000 tokens
REPLAY = 0.25
BUDGET = 0.5  # of what may be forgotten, nats per token
POSITIONS = 16  # of a prompt or a prefix
NOISE = 0.02  # on vectors of tokens; entries of the base's have a standard deviation of 0.07


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to fine-tune.

    Attributes:
      group: "little" changes few parameters, "regularized" all of them under a hold, "full" without one.
      changes: dotted fields of the config.
      rates: the peak learning rates that are tried first; `methods_sweep.next_rate` says which others.
    """

    group: str
    changes: dict[str, Any]
    rates: tuple[float, ...]


LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0)
# Where it is climbed from: full updates, small added matrices, vectors. Published rates are lower, for models a thousand
# times larger; the report shows which rate did best here.
FULL, MATRICES, VECTORS = LADDER[1:4], LADDER[3:6], LADDER[4:7]


def _added(method: str, rates: tuple[float, ...] = MATRICES, **settings: Any) -> Way:
    section = method.split("+")[0]
    return Way("little", {"tune.method": method, **{f"tune.{section}.{k}": v for k, v in settings.items()}}, rates)


def _targets() -> tuple[str, ...]:
    return default().tune.lora.targets


def _subset(recipe: str, rates: tuple[float, ...]) -> Way:
    return Way("little", {"tune.train": recipe}, rates)


def _regularized(**changes: Any) -> Way:
    return Way("regularized", {key.replace("__", "."): value for key, value in changes.items()}, FULL)


@functools.cache
def ways() -> dict[str, Way]:
    """Every way by its name."""
    return {
        "full": Way("full", {}, LADDER[:4]),  # from so low a rate on that others, at their best, gain as much
        # few parameters
        "last block": _subset("last:1", MATRICES),
        "attention": _subset("attention", FULL),
        "all but embeddings": _subset("no_embeddings", FULL),
        "biases": _subset("biases", MATRICES),
        "norms": _subset("norms", VECTORS),
        "LoRA": _added("lora"),
        "rsLoRA": _added("lora", rank_stabilized=True, rank=32),
        "DoRA": _added("lora", dora=True),
        "LoRA+": _added("lora", b_ratio=4.0),
        "PiSSA": _added("lora", init="pissa"),
        "OLoRA": _added("lora", init="olora"),
        "LoRA and tokens": _added("lora", targets=(*_targets(), "embed/tokens")),
        "LoRA on int8": Way("little", {"tune.method": "lora", "tune.quantize.format": "int8"}, MATRICES),
        "LoRA on NF4": Way("little", {"tune.method": "lora", "tune.quantize.format": "nf4"}, MATRICES),
        "AdaLoRA": _added("adalora"),
        "VeRA": _added("vera", VECTORS),
        "OFT": _added("oft"),
        "ShiRA": _added("shira"),
        "MiSS": _added("miss"),
        "GraLoRA": _added("gralora"),
        "HiRA": _added("hira"),
        "BD-LoRA": _added("bd_lora"),
        "OSF": _added("osf"),
        "IA3": _added("ia3", VECTORS),
        "Houlsby": _added("bottleneck", form="houlsby"),
        "Pfeiffer": _added("bottleneck", form="pfeiffer"),
        "parallel": _added("bottleneck", form="parallel"),
        "prefix": _added("prefix", VECTORS, length=POSITIONS),
        "prefix by a network": _added("prefix", MATRICES, length=POSITIONS, reparameterize=64),
        "gated prefix": _added("gated_prefix", VECTORS, length=POSITIONS),
        "prompt": _added("prompt", VECTORS, length=POSITIONS),
        "P-tuning": _added("p_tuning", MATRICES, length=POSITIONS),
        # all of them, under a hold
        "layer-wise rates": _regularized(tune__layer_decay=0.6),
        "gradual unfreezing": _regularized(tune__phases=("last:1", "last:2", "all")),
        "slanted triangle": _regularized(optimizer__schedule="slanted_triangular", optimizer__warmup_steps=0),
        "dropout": _regularized(model__dropout=0.1),
        "weight averaging": _regularized(training__ema_decay=0.9),
        "L2-SP": _regularized(tune__l2_sp=0.01),
        "decay to the start": _regularized(tune__start_decay=10.0),
        "EWC": _regularized(tune__ewc__weight=100.0),
        "distillation": _regularized(tune__distill__weight=1.0),
        "mixout": _regularized(tune__mixout__rate=0.5),
        # With the published 1e-5, the noise of a half-precision float, nothing changes to three digits.
        "R3F": _regularized(tune__smooth__method="r3f", tune__smooth__noise=NOISE),
        "SMART": _regularized(
            tune__smooth__method="smart",
            tune__smooth__noise=NOISE,
            tune__smooth__step=NOISE,
            tune__smooth__radius=NOISE,
        ),
        f"replay {REPLAY:.0%}": _regularized(data__mixture=((TARGET, 1 - REPLAY), ("parent", REPLAY))),
        f"a budget of {BUDGET} nats": _regularized(select__source_budget=BUDGET),
    }


def group_of(way: str) -> str:
    """What the names of a way's runs begin with."""
    return re.sub(r"[^a-z0-9+]+", "_", way.lower()).strip("_")


def name_of(way: str, rate: float, seed: int) -> str:
    """The folder of a run."""
    return f"{group_of(way)}-{rate:g}-seed{seed}"


def tune_config(size: str, base: str, way: Way, rate: float, seed: int) -> Config:
    """Fine-tuning on a few modules of Python code, which is far from what the base knows. `base`: the reference to its run."""
    config = transfer_runs.tune_config(size, base, "code", "full", seed)
    # Short enough for what prompts and prefixes place before a row.
    config.data.update(source=TARGET, train_tokens=0, length=config.data.length - POSITIONS)
    config.samples.prompts = ()
    config.optimizer.learning_rate = rate
    changes = dict(way.changes)
    if "tune.phases" in changes:  # by thirds of the run
        third = config.training.steps // 3
        changes["tune.phases"] = tuple((third * n, recipe) for n, recipe in enumerate(changes["tune.phases"]))
    return with_changes(config, **changes)
