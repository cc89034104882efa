"""What comes after the last block: scores of tokens or of classes, and values of tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.layers import ACTIVATIONS, Embedding, Linear, Norm, soft_cap
from ptft_jax.model.spec import ModelSpec

# Patterns of the leaves with a number (or a column) a class, last axis.
PER_CLASS = ("head/(classes|distilled)/(kernel|bias)",)


class MaskedHead(nnx.Module):
    """BERT's head: a dense layer, the MLP's activation, a norm, then scores with a bias a token (Devlin et al. 2018)."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.activation = spec.activation
        self.dense = Linear(spec.width, spec.width, spec, rngs, bias=True, std=spec.hidden_std)
        self.norm = Norm(spec)
        self.scores = (
            None
            if spec.tied
            else Linear(spec.width, spec.vocab_size, spec, rngs, bias=False, std=spec.output_std, scores=True)
        )
        self.bias = nnx.Param(jnp.zeros((spec.vocab_size,), jnp.dtype(spec.param_dtype)))

    def __call__(self, x_BTD: jax.Array, tokens: Embedding) -> jax.Array:
        """float32 [B, T, V]; `tokens` is the token embedding, used where the head is tied to it."""
        x_BTD = self.norm(ACTIVATIONS[self.activation](self.dense(x_BTD)))
        scores = tokens.scores(x_BTD) if self.scores is None else self.scores(x_BTD)
        return scores + self.bias[...].astype(jnp.float32)


class ClassHead(nnx.Module):
    """Scores of classes from the first of the positions that it is given, through a dense tanh layer where the model has one
    (BERT's pooler). Of a causal model that is the last token of a text (`Transformer.run`), and there is no bias, as
    transformers has it for all of them. Of images it may be the mean of the patches that it reads (`spec.pooling`).

    With `spec.distillation` "head" a second classifier reads the second position, and the scores are the mean of both
    (Touvron et al. 2020, "DeiT", section 4).
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        def linear(size_out: int, scores: bool) -> Linear:
            bias = not (scores and spec.reads_last)
            std = spec.output_std if scores else spec.hidden_std
            return Linear(spec.width, size_out, spec, rngs, bias=bias, std=std, scores=scores)

        self.pooled = bool(spec.image_size) and spec.pooling == "mean"
        self.hidden = linear(spec.width, False) if spec.class_hidden else None
        self.classes = linear(spec.classes, True)
        self.distilled = linear(spec.classes, True) if spec.distillation == "head" else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """float32 [B, classes]."""
        x_BD = jnp.mean(x_BTD[:, 1:], axis=1) if self.pooled else x_BTD[:, 0]
        if self.hidden is not None:
            x_BD = jnp.tanh(self.hidden(x_BD))
        scores = self.classes(x_BD)
        if self.distilled is None:
            return scores
        return (scores + self.distilled(x_BTD[:, 1])) / 2


def build(spec: ModelSpec, rngs: nnx.Rngs) -> Linear | MaskedHead | ClassHead | None:
    """The head that the spec names; None for next-token scores by the token embedding."""
    if spec.head == "classes":
        return ClassHead(spec, rngs)
    if spec.head == "masked_lm":
        return MaskedHead(spec, rngs)
    if spec.tied:
        return None
    return Linear(spec.width, spec.vocab_size, spec, rngs, bias=False, std=spec.output_std, scores=True)


def value(spec: ModelSpec, rngs: nnx.Rngs) -> Linear:
    """A number per position, what the rest of a text is expected to be worth. It starts as 0 everywhere, and moves nothing of the trunk
    before it has learned something itself."""
    return Linear(spec.width, 1, spec, rngs, bias=True, std=0.0, scores=True)


def score(
    head: Linear | MaskedHead | ClassHead | None, x_BTD: jax.Array, tokens: Embedding | None, cap: float
) -> jax.Array:
    """Hidden states to float32 scores [B, T, V] (or [B, classes]); `tokens` is the token embedding (None for images)."""
    if isinstance(head, ClassHead):
        return head(x_BTD)
    assert tokens is not None, "a model of images has a head for classes"
    if isinstance(head, MaskedHead):
        return head(x_BTD, tokens)
    scores = tokens.scores(x_BTD) if head is None else head(x_BTD)
    return soft_cap(scores, cap)


def numbers(model: Any, params: Any, x_BSD: jax.Array) -> jax.Array:
    """float32 [B, S]: what a head of one number reads off each position."""
    rows, positions, width = x_BSD.shape
    return model.logits(params, x_BSD.reshape(rows * positions, 1, width)).reshape(rows, positions)
