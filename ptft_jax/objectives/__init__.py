"""Objectives: each turns (model, parameters, batch) into a loss. The registry of those a config can name."""

from __future__ import annotations

from typing import Any

from ptft_jax.objectives.base import Objective
from ptft_jax.objectives.causal_lm import CausalLM, PrefixLM
from ptft_jax.objectives.classification import Classification
from ptft_jax.objectives.denoising import MaskedLM, SpanCorruption
from ptft_jax.pairing import check_model as check
from ptft_jax.pairing import check_samples

__all__ = ["OBJECTIVES", "build", "check", "check_samples", "reads_prompt"]

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


def reads_prompt(name: str) -> bool:
    """Whether a model of the objective `name` was taught to read a prompt in both directions."""
    return OBJECTIVES[name].reads_prompt
