"""Objectives: each turns (model, parameters, batch, context) into a loss. Which one a config asks for; loads JAX when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax import pairing
from ptft_jax.config.objectives import OBJECTIVES, ObjectiveSpec

__all__ = ["OBJECTIVES", "ObjectiveSpec", "build", "check", "check_samples"]


def build(section: Any) -> Any:
    """The loss (`ptft_jax.objectives.base.Objective`) that `config.objective` names."""
    return section.tables.objectives[section.name].build(section)


def check(name: str, model: Any, table: Mapping[str, ObjectiveSpec] = OBJECTIVES) -> None:
    """As `ptft_jax.pairing.check_model`."""
    pairing.check_model(name, model, table)


def check_samples(name: str, prompts: Any, table: Mapping[str, ObjectiveSpec] = OBJECTIVES) -> None:
    """As `ptft_jax.pairing.check_samples`."""
    pairing.check_samples(name, prompts, table)
