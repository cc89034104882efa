"""Objectives: each turns (model, parameters, batch) into a loss. The registry of those a config can name."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.model.spec import ModelSpec
from ptft_jax.objectives.base import Objective
from ptft_jax.objectives.causal_lm import CausalLM, PrefixLM
from ptft_jax.objectives.denoising import MaskedLM, SpanCorruption

OBJECTIVES = {
    "causal_lm": CausalLM,
    "prefix_lm": PrefixLM,
    "masked_lm": MaskedLM,
    "span_corruption": SpanCorruption,
}


def build(config: Any) -> Objective:
    """The objective that `config.objective` names."""
    return OBJECTIVES[config.name](z_loss=config.z_loss, label_smoothing=config.label_smoothing, chunk=config.chunk)


def check(name: str, spec: ModelSpec) -> None:
    """Raises UserError where a model cannot be trained or measured on the objective `name`."""
    where = f"config.objective.name = {name!r}"
    if name == "masked_lm":
        if spec.causal:
            raise UserError(f"{where}: the model sees only what came before; set model.causal=False")
        if spec.head not in ("masked_lm", "lm"):
            raise UserError(
                f"{where}: the model has a head for {spec.head}; set model.head='masked_lm' (BERT's) or 'lm'"
            )
    elif spec.head != "lm" or not spec.causal:
        what = "bidirectional" if not spec.causal else f"with a head for {spec.head}"
        advice = "set model.causal=True" if not spec.causal else "set model.head='lm'"
        masked = ", or objective.name='masked_lm'" if not spec.causal and spec.head != "classes" else ""
        raise UserError(f"{where}: the model is {what}, and predicts no next token; {advice}{masked}")


def check_samples(name: str, prompts: Any) -> None:
    """Raises UserError where `config.samples.prompts` are set for an objective that teaches no model to write."""
    if prompts and name == "masked_lm":
        raise UserError(
            f"config.samples.prompts: a model of objective.name={name!r} fills in masked tokens and writes no text; leave them "
            "at ()"
        )


def reads_prompt(name: str) -> bool:
    """Whether a model of the objective `name` was taught to read a prompt in both directions."""
    return OBJECTIVES[name].reads_prompt
