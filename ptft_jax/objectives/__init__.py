"""Objectives: each turns (model, parameters, batch) into a loss. The registry of those a config can name."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.model.spec import ModelSpec
from ptft_jax.objectives.base import Objective


def build(config: Any) -> Objective:
    """The objective that `config.objective` names."""
    from ptft_jax.objectives.causal_lm import CausalLM

    builders = {
        "causal_lm": lambda c: CausalLM(z_loss=c.z_loss, label_smoothing=c.label_smoothing, chunk=c.chunk),
    }
    return builders[config.name](config)


def check(name: str, spec: ModelSpec) -> None:
    """Raises UserError where a model cannot be trained or measured on the objective `name`."""
    if name == "causal_lm" and (spec.head != "lm" or not spec.causal):
        what = "bidirectional" if not spec.causal else f"with a head for {spec.head}"
        raise UserError(f"config.objective.name = {name!r}: the model is {what}, and predicts no next token")
