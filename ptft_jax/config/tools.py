"""The tools that `config.tools.use` can name: what is to know of each before it is loaded. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import fields_of
from ptft_jax.config.field import Field
from ptft_jax.tools.options import CalculatorOptions, ToolsOptions


@dataclasses.dataclass(frozen=True)
class ToolSpec:
    """What a model may call while it answers.

    Attributes:
      tool: a subclass of `ptft_jax.tools.base.Tool`, which is given the settings as arguments; or a function of what stands in a call, to a
        text or a value of JSON; or the place of either, "package.module:name".
      fields: its settings, by their names in `config.tools.NAME`.
    """

    tool: Any
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)


TOOLS: Mapping[str, ToolSpec] = {
    "calculator": ToolSpec("ptft_jax.tools.calculator:Calculator", fields_of(CalculatorOptions))
}


def is_taken(name: str) -> bool:
    """Whether `config.tools` has a setting of this name, so that no tool may have it."""
    return name in fields_of(ToolsOptions)
