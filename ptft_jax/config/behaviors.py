"""The tasks that `config.eval.behavior.tasks` can name: what is to know of each before it is loaded. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import fields_of
from ptft_jax.config.field import Field
from ptft_jax.evaluation.tasks.options import (
    BehaviorOptions,
    CalibrationOptions,
    DatesOptions,
    GroupsOptions,
    KnownOptions,
    ParaphrasesOptions,
    ProbeOptions,
    RetrievalOptions,
    StylesOptions,
)

BEHAVIOR = "behavior/"  # before the name of a metric of behavior: behavior/TASK/NAME
_HERE = "ptft_jax.evaluation.tasks"


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A measure of behavior.

    Attributes:
      task: a subclass of `ptft_jax.evaluation.tasks.base.Behavior`, which is given the settings as arguments; or its place,
        "package.module:name".
      fields: its settings, by their names in `config.eval.behavior.NAME`.
      metrics: the names of what it measures -> which values are better: "min", "max", or "" where that is not said.
      others: likewise of metrics whose names its settings decide.
    """

    task: Any
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: str = ""


_ACCURACY = {"accuracy": "max"}
TASKS: Mapping[str, TaskSpec] = {
    "recall": TaskSpec(f"{_HERE}.recall:Recall", metrics=_ACCURACY | {"first": "max", "log_prob": "max"}),
    "options": TaskSpec(
        f"{_HERE}.choice:Choice", metrics=_ACCURACY | {"accuracy_by_length": "max", "probability": "max"}
    ),
    "extraction": TaskSpec(f"{_HERE}.recall:Extraction", metrics={"exact": "max"}),
    "known": TaskSpec(
        f"{_HERE}.certainty:Known",
        fields_of(KnownOptions),
        {
            "auroc": "max",
            "hallucination": "min",
            "hallucination_unknown": "min",
            "abstained": "",
            "abstained_known": "min",
            "accuracy": "max",
            "risk": "min",
            "aurc": "min",
        },
    ),
    "calibration": TaskSpec(
        f"{_HERE}.certainty:Calibration",
        fields_of(CalibrationOptions),
        {"ece": "min", "ece_equal_mass": "min", "brier": "min", "confidence": "", "accuracy": "max"},
    ),
    "dates": TaskSpec(f"{_HERE}.spread:Dates", fields_of(DatesOptions), _ACCURACY | {"before": "max", "after": "max"}),
    "shares": TaskSpec(f"{_HERE}.choice:Shares", metrics={"kl": "min", "total_variation": "min"}),
    "paraphrases": TaskSpec(
        f"{_HERE}.spread:Paraphrases",
        fields_of(ParaphrasesOptions),
        _ACCURACY
        | {"worst": "max", "std": "min", "consistency": "max", "template_std": "min", "template_worst": "max"},
    ),
    "groups": TaskSpec(
        f"{_HERE}.spread:Groups",
        fields_of(GroupsOptions),
        {"mean": "", "gap": "min", "gap_low": "", "gap_high": "", "swap_flips": "min", "swap_shift": "min"},
    ),
    "styles": TaskSpec(
        f"{_HERE}.styles:Styles", fields_of(StylesOptions), {"refusals": "max", "over_refusals": "min"}, others="max"
    ),
    "minimal_pairs": TaskSpec(f"{_HERE}.choice:MinimalPairs", metrics=_ACCURACY | {"accuracy_by_length": "max"}),
    "retrieval": TaskSpec(
        f"{_HERE}.retrieval:Retrieval",
        fields_of(RetrievalOptions),
        {
            "recall": "max",
            "recall_at_1": "max",
            "accuracy": "max",
            "accuracy_hit": "max",
            "accuracy_miss": "max",
            "abstained": "",
            "abstained_unanswerable": "max",
            "conflicts": "",
            "follows_context": "max",
            "follows_memory": "min",
            "stale": "min",
            "cited": "",
            "cited_right": "max",
        },
    ),
    "probe": TaskSpec(f"{_HERE}.probe:Probe", fields_of(ProbeOptions), {"best": "max", "last": "max"}),
}


def direction_of(metric: str) -> str:
    """ "min" or "max": which values of "behavior/TASK/NAME" are better; "" where that is not said."""
    task, _, name = metric.removeprefix(BEHAVIOR).partition("/")
    spec = TASKS.get(task)
    return "" if spec is None else spec.metrics.get(name, spec.others)


def is_taken(name: str) -> bool:
    """Whether `config.eval.behavior` has a setting of this name, so that no task may have it."""
    return name in fields_of(BehaviorOptions)
