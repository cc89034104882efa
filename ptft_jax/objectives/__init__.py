"""Objectives: each turns (model, parameters, batch) into a loss. The registry of those a config can name."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.model.spec import ModelSpec
from ptft_jax.objectives.base import Objective
from ptft_jax.objectives.causal_lm import CausalLM, PrefixLM
from ptft_jax.objectives.classification import Classification
from ptft_jax.objectives.denoising import MaskedLM, SpanCorruption

OBJECTIVES = {
    "causal_lm": CausalLM,
    "prefix_lm": PrefixLM,
    "masked_lm": MaskedLM,
    "span_corruption": SpanCorruption,
    "classification": Classification,
}


def build(config: Any) -> Objective:
    """The objective that `config.objective` names."""
    options = {"z_loss": config.z_loss, "label_smoothing": config.label_smoothing}
    if config.name != "classification":
        options["chunk"] = config.chunk
    return OBJECTIVES[config.name](**options)


_BOTH_WAYS = "set model.causal=False, and fine-tune a model that was trained so (objective.name='masked_lm')"


def check(name: str, spec: ModelSpec) -> None:
    """Raises UserError where a model cannot be trained or measured on the objective `name`."""
    where = f"config.objective.name = {name!r}"
    if name == "masked_lm":
        if spec.causal:
            raise UserError(f"{where}: the model sees only what came before; {_BOTH_WAYS}")
        if spec.head not in ("masked_lm", "lm"):
            raise UserError(
                f"{where}: the model has a head for {spec.head}; set model.head='masked_lm' (BERT's) or 'lm'"
            )
    elif name == "classification":
        if spec.head != "classes":
            raise UserError(f"{where}: the model scores tokens; set model.head='classes' and model.classes")
        if spec.causal:
            raise UserError(
                f"{where}: the classes are read off the first position, which sees nothing of a text in a causal model; "
                f"{_BOTH_WAYS}"
            )
    elif spec.head != "lm" or not spec.causal:
        what = "bidirectional" if not spec.causal else f"with a head for {spec.head}"
        advice = "set model.causal=True" if not spec.causal else "set model.head='lm'"
        masked = ", or objective.name='masked_lm'" if not spec.causal and spec.head != "classes" else ""
        raise UserError(f"{where}: the model is {what}, and predicts no next token; {advice}{masked}")


def check_samples(name: str, prompts: Any) -> None:
    """Raises UserError where `config.samples.prompts` are set for an objective that teaches no model to write."""
    does = {"masked_lm": "fills in masked tokens", "classification": "names classes"}.get(name)
    if prompts and does:
        raise UserError(
            f"config.samples.prompts: a model of objective.name={name!r} {does} and writes no text; leave them at ()"
        )


def reads_prompt(name: str) -> bool:
    """Whether a model of the objective `name` was taught to read a prompt in both directions."""
    return OBJECTIVES[name].reads_prompt
