"""The metrics that `config.eval.metrics` can name: what evaluations measure beside those of the objective. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.errors import UserError, nearest

RAW = "raw_"  # before the name of a metric: of the parameters themselves, beside their average
# What objectives and evaluations measure themselves: whether smaller or larger values are better.
OWN = {
    "loss": "min",
    "nll": "min",
    "bits_per_byte": "min",
    "z_loss": "min",
    "accuracy": "max",
    "mse": "min",
    "margin": "max",
    "chosen_log_prob": "max",
    "rejected_log_prob": "min",
    "chosen_shift": "max",
    "rejected_shift": "min",
    "kl": "min",
    "chosen_tokens": "",
    "rejected_tokens": "",
    "pearson": "max",
    "spearman": "max",
    "f1_macro": "max",
    "f1_weighted": "max",
    "chosen_reward": "",
    "rejected_reward": "",
    "right_score": "max",
    "wrong_score": "min",
    "brier": "min",
    "ece": "min",
    "by_class": "",
    "confusion": "",
    "predicted": "",
    "vectors": "",
    "scale": "",
    **{f"{of}_recall_{k}": "max" for of in ("text", "image") for k in (1, 5, 10)},
    "calibration": "",
    "agreement": "max",
    "teacher_mass": "",
    "reference_point": "",
    "log_prob": "",
    "shift": "",
    "answer_tokens": "",
}
Measures = tuple[tuple[str, Callable[..., Any]], ...]  # (name, function) of each metric


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """A metric that `config.eval.metrics` can name: a mean over what is evaluated.

    Attributes:
      measure: a function of (logits float [..., V], targets int [...], weights float32 [...]) that gives (total, weight), two
        numbers []; or its place, "package.module:name". It is compiled, and called with a part of the targets at a time: the
        numbers of all parts, batches and devices are added up, and divided once. What has no weight must not count.
      mode: "min" or "max": which values are better.
    """

    measure: Any
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"MetricSpec: mode = {self.mode!r}: expected 'min' or 'max'")


METRICS: Mapping[str, MetricSpec] = {}


def chosen(names: Sequence[str], known: Mapping[str, MetricSpec]) -> Measures:
    """Those of `known` that `config.eval.metrics` names. Raises UserError for one that is not known, or is named twice."""
    for name in names:
        if name not in known:
            expected = f"expected of {', '.join(known)}" if known else "the config names no plugin that has any"
            raise UserError(f"config.eval.metrics: no metric {name!r}: {expected}{nearest(name, known)}")
        if list(names).count(name) > 1:
            raise UserError(f"config.eval.metrics: {name!r} is named twice")
    return tuple((name, located(known[name].measure)) for name in names)


def is_taken(name: str) -> bool:
    """Whether evaluations give something of this name anyway."""
    return name in OWN or name.startswith(RAW)
