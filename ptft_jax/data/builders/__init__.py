"""Builders: each turns token ids into what its objective learns from. Chosen by the objective's name."""

from __future__ import annotations

from typing import Any

from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.tokenizers import Tokenizer

__all__ = ["Builder", "Piece", "build"]


def build(objective: Any, tokenizer: Tokenizer) -> Builder:
    """The builder of `config.objective`, reading only the settings that matter to it.

    Raises:
      UserError: the tokenizer lacks a token that the objective needs.
    """
    builders = {"causal_lm": lambda: Causal()}
    return builders[objective.name]()
