"""Objectives: each turns (model, parameters, batch, context) into a loss. Which one a config asks for; loads JAX when it is built."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.objectives import OBJECTIVES, ObjectiveOptions, ObjectiveSpec
from ptft_jax.pairing import check_model as check
from ptft_jax.pairing import check_samples

__all__ = ["OBJECTIVES", "ObjectiveSpec", "build", "check", "check_samples"]


def build(section: ObjectiveOptions) -> Any:
    """The loss (`ptft_jax.objectives.base.Objective`) that `config.objective` names."""
    return section.tables.objectives[section.name].build(section)
