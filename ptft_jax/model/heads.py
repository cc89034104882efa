"""What comes after the last block: scores of tokens or of classes, and values of tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.dot_product import EVERYTHING, attention, weights_of
from ptft_jax.model.layers import ACTIVATIONS, MLP, Embedding, Linear, Norm, soft_cap
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.texts import TextTower

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


class Pool(nnx.Module):
    """One vector of an image's tokens, as `spec.pooling` says: the class token, the mean of the patches, the one behind the other (Oquab et al.
    2023, "DINOv2", appendix B.3), or what a learned query attends to among all tokens, with an MLP of its own (Lee et al. 2019, "Set
    Transformer", section 3.2; Zhai et al. 2022, "Scaling Vision Transformers", section 2.1)."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.how, self.first = spec.pooling, spec.before_patches
        self.attention = AttentionPool(spec, rngs) if spec.pooling == "attention" else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, D], or [B, 2 * D] of "both"."""
        if self.attention is not None:
            return self.attention(x_BTD)
        mean_BD = jnp.mean(x_BTD[:, self.first :], axis=1)
        parts = {"token": [x_BTD[:, 0]], "mean": [mean_BD], "both": [x_BTD[:, 0], mean_BD]}[self.how]
        return jnp.concatenate(parts, axis=-1)

    def weights(self, x_BTD: jax.Array) -> jax.Array:
        """How much of each token is read, float32 [B, T]: of "attention" its probabilities, the mean over heads; else shares of one, of "both"
        the class token's."""
        if self.attention is not None:
            return self.attention.weights(x_BTD)
        place = jnp.arange(x_BTD.shape[1])
        read_T = place >= self.first if self.how == "mean" else place == 0
        return jnp.broadcast_to(read_T / jnp.sum(read_T), x_BTD.shape[:2])


class AttentionPool(nnx.Module):
    """y + MLP(norm(y)) of y, what a learned query attends to."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.heads, self.scale = spec.heads, (spec.width // spec.heads) ** -0.5
        init = jax.nn.initializers.normal(spec.init_std)
        self.probe = nnx.Param(init(rngs.params(), (spec.width,), jnp.dtype(spec.param_dtype)))

        def linear() -> Linear:
            return Linear(spec.width, spec.width, spec, rngs, bias=True, std=spec.hidden_std)

        self.query, self.key, self.value, self.out = (linear() for _ in range(4))
        self.norm = Norm(spec)
        self.mlp = MLP(spec, rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, D]."""
        q, k = self._queries_and_keys(x_BTD)
        found = attention(q, k, self._by_heads(self.value(x_BTD)), EVERYTHING, scale=self.scale, implementation="xla")
        y_BD = self.out(found.reshape(x_BTD.shape[0], -1))
        return y_BD + self.mlp(self.norm(y_BD))

    def weights(self, x_BTD: jax.Array) -> jax.Array:
        """How much the query attends to each token, the mean over heads, float32 [B, T]."""
        found = weights_of(self.scale, 0.0, *self._queries_and_keys(x_BTD), EVERYTHING)
        return jnp.mean(found, axis=(1, 2))[:, 0]

    def _queries_and_keys(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        probe = jnp.broadcast_to(self.probe[...].astype(x_BTD.dtype), (x_BTD.shape[0], 1, x_BTD.shape[2]))
        return self._by_heads(self.query(probe)), self._by_heads(self.key(x_BTD))

    def _by_heads(self, x_BTD: jax.Array) -> jax.Array:
        return x_BTD.reshape(*x_BTD.shape[:2], self.heads, -1)


class VectorHead(nnx.Module):
    """One vector of an image: what `Pool` reads, or a projection of it without a bias (Radford et al. 2021, "CLIP", figure 3); with
    `text_layers` beside a tower for texts."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.pool = Pool(spec, rngs)
        wide, size = spec.width * (2 if spec.pooling == "both" else 1), spec.vector_width
        self.projection = Linear(wide, size, spec, rngs, bias=False, std=spec.output_std, scores=True) if size else None
        self.texts = TextTower(spec, size or wide, rngs) if spec.text_layers else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """float32 [B, `vector_width` or what is read]."""
        x_BD = self.pool(x_BTD)
        return x_BD.astype(jnp.float32) if self.projection is None else self.projection(x_BD)


class ClassHead(nnx.Module):
    """Scores of classes from the first of the positions that it is given, through a dense tanh layer where the model has one
    (BERT's pooler). Of a causal model that is the last token of a text (`Transformer.run`), and there is no bias, as
    transformers has it for all of them. Of images `Pool` says what it reads.

    With `spec.distillation` "head" a second classifier reads the second position, and the scores are the mean of both
    (Touvron et al. 2020, "DeiT", section 4).
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        def linear(size_out: int, scores: bool) -> Linear:
            bias = not (scores and spec.reads_last)
            std = spec.output_std if scores else spec.hidden_std
            wide = 2 * spec.width if spec.image_size and spec.pooling == "both" else spec.width
            return Linear(wide, size_out, spec, rngs, bias=bias, std=std, scores=scores)

        self.pool = Pool(spec, rngs) if spec.image_size else None
        self.hidden = linear(spec.width, False) if spec.class_hidden else None
        self.classes = linear(spec.classes, True)
        self.distilled = linear(spec.classes, True) if spec.distillation == "head" else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """float32 [B, classes]."""
        x_BD = x_BTD[:, 0] if self.pool is None else self.pool(x_BTD)
        if self.hidden is not None:
            x_BD = jnp.tanh(self.hidden(x_BD))
        scores = self.classes(x_BD)
        if self.distilled is None:
            return scores
        return (scores + self.distilled(x_BTD[:, 1])) / 2


def build(spec: ModelSpec, rngs: nnx.Rngs) -> Linear | MaskedHead | ClassHead | VectorHead | None:
    """The head that the spec names; None for next-token scores by the token embedding."""
    if spec.head == "vector":
        return VectorHead(spec, rngs)
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
    head: Linear | MaskedHead | ClassHead | VectorHead | None, x_BTD: jax.Array, tokens: Embedding | None, cap: float
) -> jax.Array:
    """Hidden states to float32 scores [B, T, V] (or [B, classes], or a vector); `tokens` is the token embedding (None for images)."""
    if isinstance(head, (ClassHead, VectorHead)):
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
