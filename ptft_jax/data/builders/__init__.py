"""Builders: each turns token ids into what its objective learns from (`rows` of its `ObjectiveSpec`)."""

from __future__ import annotations

from typing import Any

from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.tokenizers import Tokenizer

__all__ = ["Builder", "Piece", "build"]


def build(objective: Any, tokenizer: Tokenizer, causal: bool = False) -> Builder:
    """The builder of `config.objective`, for a model that is causal or not. Raises UserError as `Builder.of` does."""
    return objective.tables.objectives[objective.name].builder.of(objective, tokenizer).read_by(causal)
