"""Builders: each turns token ids into what its objective learns from. Chosen by the objective's name."""

from __future__ import annotations

from typing import Any

from ptft_jax.data.builders import masked, spans
from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.builders.classes import Classes
from ptft_jax.data.builders.prefix import Prefix
from ptft_jax.data.tokenizers import Tokenizer

__all__ = ["Builder", "Piece", "build"]


def build(objective: Any, tokenizer: Tokenizer) -> Builder:
    """The builder of `config.objective`, reading only the settings that matter to it.

    Raises:
      UserError: the tokenizer lacks a token that the objective needs, or settings that contradict each other.
    """
    builders = {
        "causal_lm": lambda: Causal(),
        "prefix_lm": lambda: Prefix(),
        "masked_lm": lambda: masked.build(objective, tokenizer),
        "span_corruption": lambda: spans.build(objective, tokenizer),
        "classification": lambda: Classes(),
    }
    return builders[objective.name]()
