"""Objectives: each turns (model, parameters, batch) into a loss. The registry of those a config can name."""

from __future__ import annotations

from typing import Any

from ptft_jax.objectives.base import Objective


def build(config: Any) -> Objective:
    """The objective that `config.objective` names."""
    from ptft_jax.objectives.causal_lm import CausalLM

    builders = {
        "causal_lm": lambda c: CausalLM(z_loss=c.z_loss, label_smoothing=c.label_smoothing, chunk=c.chunk),
    }
    return builders[config.name](config)
