"""The block that a transformer repeats."""

from __future__ import annotations

import jax
from flax import nnx

from ptft_jax.model.attention import Attention, Cache, View
from ptft_jax.model.layers import MLP, Norm, PerRow, Scale, dropout
from ptft_jax.model.moe import MoE, Routing
from ptft_jax.model.spec import ModelSpec

Ends = tuple[Norm | None, Scale | None]  # what a sublayer's output goes through before it is added


class Block(nnx.Module):
    """Attention and MLP on the residual stream, with norms where `spec.norm_placement` says:

    "pre" x + f(norm(x)); "post" norm(x + f(x)) (Vaswani et al. 2017); "output" x + norm(f(x)) (OLMo 2);
    "both" x + norm(f(norm(x))) (Gemma 2). With `spec.layer_scale` what is added is multiplied by learned factors. `spec.parallel` runs attention and MLP on the same x (GPT-J, GPT-NeoX).

    Fine-tuning methods change what a sublayer f (attention, MLP) puts out by its `adapter`: a module called with
    (f, f's input, its output y, what the block would make of y, the `PerRow`), each [B, T, D], that returns the new y.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        before, after = spec.norm_placement in ("pre", "both"), spec.norm_placement != "pre"
        self.attention_norm = Norm(spec) if before else None
        self.attention = Attention(spec, rngs)
        self.attention_post_norm = Norm(spec) if after else None
        self.mlp_norm = Norm(spec) if before else None
        self.mlp = MoE(spec, rngs) if spec.experts else MLP(spec, rngs)
        self.mlp_post_norm = Norm(spec) if after else None
        self.attention_scale, self.mlp_scale = (Scale(spec) if spec.layer_scale else None for _ in range(2))

    def __call__(
        self,
        x_BTD: jax.Array,
        view: View,
        cache: Cache | None = None,
        start: int | jax.Array | None = None,
        per_row: PerRow | None = None,
    ) -> tuple[jax.Array, Cache | None, Routing | None]:
        """(the stream after the block, the new cache, how experts were used or None)."""
        inputs = _maybe(self.attention_norm, x_BTD)
        y, cache = self.attention(inputs, view, cache, start, per_row)
        ends = self.attention_post_norm, self.attention_scale
        y = self._adapted(self.attention, inputs, y, x_BTD, ends, per_row)
        after_BTD = self._add(x_BTD, y, ends, per_row, 0)
        inputs = _maybe(self.mlp_norm, x_BTD if self.spec.parallel else after_BTD)
        mlp = self.mlp
        y, routing = mlp.routed(inputs, per_row) if isinstance(mlp, MoE) else (mlp(inputs, per_row), None)
        ends = self.mlp_post_norm, self.mlp_scale
        y = self._adapted(mlp, inputs, y, after_BTD, ends, per_row)
        return self._add(after_BTD, y, ends, per_row, 1), cache, routing

    def attention_weights(self, x_BTD: jax.Array, view: View, per_row: PerRow | None = None) -> jax.Array:
        """`Attention.weights` of the stream before the block, float32 [B, T, T]."""
        return self.attention.weights(_maybe(self.attention_norm, x_BTD), view, per_row)

    def _adapted(
        self,
        sublayer: Attention | MLP | MoE,
        inputs: jax.Array,
        y: jax.Array,
        x: jax.Array,
        ends: Ends,
        per_row: PerRow | None,
    ) -> jax.Array:
        if sublayer.adapter is None:
            return y
        # The compiler drops the sum where the adapter does not look at it.
        return sublayer.adapter(sublayer, inputs, y, self._add(x, y, ends, None, 0), per_row)

    def _add(self, x: jax.Array, y: jax.Array, ends: Ends, per_row: PerRow | None, site: int) -> jax.Array:
        post, (norm, scale) = self.spec.norm_placement == "post", ends
        y = _maybe(scale, y if post else _maybe(norm, y))
        x = x + dropout(y, self.spec.dropout, per_row, site)
        return _maybe(norm, x) if post else x


def _maybe(layer: Norm | Scale | None, x: jax.Array) -> jax.Array:
    return x if layer is None else layer(x)
