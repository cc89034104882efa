"""The verifiers that `config.eval.answers.verifiers` can name: what is to know of each before it is loaded. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import fields_of
from ptft_jax.config.field import Field
from ptft_jax.rewards.options import (
    CombinedOptions,
    EnsembleOptions,
    ExactOptions,
    F1Options,
    JsonSchemaOptions,
    JudgeOptions,
    NumberOptions,
    PrinciplesOptions,
    ProcessRewardOptions,
    ProgramOptions,
    RegexOptions,
    RewardModelOptions,
)

ANSWERS = "answers/"  # before the name of a metric of generated answers
# What is measured of answers beside the scores of verifiers.
OWN_ANSWERS = {"ended": "max", "length": ""}
# Likewise where answers may call tools.
OF_CALLS = {"calls": "", "failed_calls": "min", "cut_results": "min", "unanswered": "min"}
# After the name of a verifier: the share of the answers that it gave no score.
UNSCORED = "_unscored"
# Likewise of an ensemble: the mean standard deviation over its members.
SPREAD = "_spread"
_HERE = "ptft_jax.rewards"


def is_own_answer(name: str) -> bool:
    """Whether a metric of answers is none of a verifier's scores."""
    return name in OWN_ANSWERS or name in OF_CALLS or name.endswith((UNSCORED, SPREAD))


def is_taken(name: str) -> bool:
    """Whether a name that is no verifier's means something beside them: a metric of answers, or the settings of functions."""
    return name == "function" or is_own_answer(name)


def is_of_answers(metrics: str) -> bool:
    """Whether metrics are of answers, by what stands before their names: "answers", "SET/answers"."""
    return metrics.rpartition("/")[2] == ANSWERS.rstrip("/")


@dataclasses.dataclass(frozen=True)
class VerifierSpec:
    """What scores generated answers. Larger scores are better.

    Attributes:
      verifier: a subclass of `ptft_jax.rewards.base.Verifier`, which is given the settings as arguments; or a function of (answer,
        `ptft_jax.rewards.base.Task`) that gives a number, or a number and a reason; or the place of either, "package.module:name".
      fields: its settings, by their names in `config.rewards.NAME`; a function has those of `config.rewards.function`.
      plugs: whether it is given `plugins`, those of the config, too: it names verifiers itself.
    """

    verifier: Any
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    plugs: bool = False


VERIFIERS: Mapping[str, VerifierSpec] = {
    "exact": VerifierSpec(f"{_HERE}.texts:Exact", fields_of(ExactOptions)),
    "f1": VerifierSpec(f"{_HERE}.texts:F1", fields_of(F1Options)),
    "regex": VerifierSpec(f"{_HERE}.patterns:Regex", fields_of(RegexOptions)),
    "number": VerifierSpec(f"{_HERE}.numbers:Number", fields_of(NumberOptions)),
    "json_schema": VerifierSpec(f"{_HERE}.schemas:JsonSchema", fields_of(JsonSchemaOptions)),
    "program": VerifierSpec(f"{_HERE}.programs:Program", fields_of(ProgramOptions)),
    "reward_model": VerifierSpec(f"{_HERE}.reward_model:RewardModel", fields_of(RewardModelOptions)),
    "ensemble": VerifierSpec(f"{_HERE}.ensemble:Ensemble", fields_of(EnsembleOptions)),
    "process_reward": VerifierSpec(f"{_HERE}.process_reward:ProcessReward", fields_of(ProcessRewardOptions)),
    "judge": VerifierSpec(f"{_HERE}.judge:Judge", fields_of(JudgeOptions)),
    "principles": VerifierSpec(f"{_HERE}.principles:Principles", fields_of(PrinciplesOptions), plugs=True),
    "combined": VerifierSpec(f"{_HERE}.combined:Combined", fields_of(CombinedOptions)),
}
