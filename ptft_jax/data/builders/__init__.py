"""Builders: each turns token ids into what its objective learns from (`rows` of its `ObjectiveSpec`)."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.located import located
from ptft_jax.data.builders.base import Builder, Piece
from ptft_jax.data.tokenizers import Tokenizer

__all__ = ["Builder", "Piece", "build", "for_model"]


def build(objective: Any, tokenizer: Tokenizer, causal: bool = False) -> Builder:
    """The builder of rows of texts of `config.objective`, for a model that is causal or not. Raises UserError as `Builder.of` does."""
    return objective.tables.objectives[objective.name].builder.of(objective, tokenizer).read_by(causal)


def for_model(objective: Any, tokenizer: Tokenizer, model: Any, data: Any) -> Builder:
    """The builder of rows of texts, or of images where the model reads those, or learns what is said of them.

    Args:
      objective, data: of the config.
      model: its `ModelSpec`, or `config.model`.

    Raises:
      UserError: as `Builder.of`; passages that do not go with the rows (`data.neighbors`).
    """
    spec = objective.tables.objectives[objective.name]
    if model.image_size or spec.tower:
        return located(spec.pictures).of_images(objective, model, data).with_texts(tokenizer, model)
    builder = build(objective, tokenizer, model.causal)
    if not data.neighbors.index:
        return builder
    return located("ptft_jax.retrieval.chunks:with_neighbors")(builder, tokenizer, model, data)
