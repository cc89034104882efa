"""One transformer for many families: NNX modules describe it, pure functions of a plain dict of arrays run it.

`Transformer` is static and hashable. Its parameters are a nested dict with readable paths, layers stacked on a
leading axis: `embed/tokens/embedding`, `blocks/attention/query/kernel` [L, in, out], `final_norm/scale`, ...
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.attention import Attention, Mask, causal_mask
from ptft_jax.model.layers import MLP, Embedding, Linear, Norm, dropout
from ptft_jax.model.spec import ModelSpec

Params = dict[str, Any]


class Embed(nnx.Module):
    """Token vectors plus, for learned positions, position vectors."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.tokens = Embedding(spec.vocab_size, spec, rngs)
        self.positions = Embedding(spec.max_length, spec, rngs) if spec.positions == "learned" else None

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        x_BTD = self.tokens(tokens_BT)
        return x_BTD if self.positions is None else x_BTD + self.positions(positions_BT)


class Block(nnx.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.dropout = spec.dropout
        self.attention_norm, self.attention = Norm(spec), Attention(spec, rngs)
        self.mlp_norm, self.mlp = Norm(spec), MLP(spec, rngs)

    def __call__(self, x_BTD, positions_BT, mask: Mask, cache=None, start=None, keys=None):
        y, cache = self.attention(self.attention_norm(x_BTD), positions_BT, mask, cache, start, keys)
        x_BTD = x_BTD + dropout(y, self.dropout, keys, 0)
        y = self.mlp(self.mlp_norm(x_BTD), keys)
        return x_BTD + dropout(y, self.dropout, keys, 1), cache


class Trunk(nnx.Module):
    """Everything that is not a repeated block."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.embed = Embed(spec, rngs)
        self.final_norm = Norm(spec)
        self.head = (
            None if spec.tied else Linear(spec.width, spec.vocab_size, spec, rngs, bias=False, std=spec.init_std)
        )


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.split(module)[1])


REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The model as pure functions. Two with equal fields are equal, so compiled programs are shared.

    Attributes:
      spec: sizes and choices.
      adapt: None, or a hashable callable `(module, prefix, rngs) -> None` that fills `Linear.adapter` slots
        (see `ptft_jax.adapters`); it makes the adapter's parameters part of the same dict.
      constrain: None, or a hashable callable applied to activations [B, ...] at block edges, which pins how they
        are spread over a mesh.
    """

    spec: ModelSpec
    adapt: Callable[[nnx.Module, str, nnx.Rngs], None] | None = None
    constrain: Callable[[jax.Array], jax.Array] | None = None

    def _make(self, part: type, prefix: str, key: jax.Array, base: Params | None = None) -> nnx.Module:
        # Adapters draw from their own stream: the base is initialised alike with and without them.
        rngs = nnx.Rngs(params=key, adapter=jax.random.fold_in(key, 1))
        module = part(self.spec.resolved, rngs)
        if base is not None:
            nnx.update(module, jax.tree.map(lambda new, old: new.astype(old.dtype), base, _pure(module)))
        if self.adapt is not None:
            self.adapt(module, prefix, rngs)
        return module

    def _init_part(self, part: type, prefix: str, key: jax.Array, base: Params | None = None) -> Params:
        return _pure(self._make(part, prefix, key, base))

    @functools.cached_property
    def _definitions(self) -> tuple[nnx.GraphDef, nnx.GraphDef]:
        def define(part, prefix):
            return nnx.split(nnx.eval_shape(lambda: self._make(part, prefix, jax.random.key(0))))[0]

        return define(Trunk, ""), define(Block, "blocks/")

    def init(self, key: jax.Array, base: Params | None = None) -> Params:
        """Random parameters: normal with `init_std`, residual projections smaller by sqrt(2 * layers), as in GPT-2
        (Radford et al. 2019, section 2.3). Traceable, so it can be compiled with sharded outputs.

        Args:
          base: whole parameters of the model without adapters, to take instead of random ones. Adapters are made for
            these (some start from what they adapt).
        """
        trunk_key, blocks_key = jax.random.split(key)
        trunk = None if base is None else {k: v for k, v in base.items() if k != "blocks"}
        params = self._init_part(Trunk, "", trunk_key, trunk)
        keys = jax.random.split(blocks_key, self.spec.layers)
        blocks = None if base is None else base["blocks"]
        params["blocks"] = jax.vmap(functools.partial(self._init_part, Block, "blocks/"))(keys, blocks)
        return params

    def shapes(self) -> Params:
        """The parameters' shapes and dtypes, without making them."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def _trunk(self, params: Params) -> Trunk:
        return nnx.merge(self._definitions[0], {k: v for k, v in params.items() if k != "blocks"})

    def hidden(self, params, tokens_BT, *, positions_BT=None, segments_BT=None, keys_B=None):
        """The last hidden states.

        Args:
          params: nested dict; `params["blocks"]` is one stack of layers, or a tuple of consecutive stacks (how a
            partition hands over frozen and trainable layers).
          tokens_BT: int token ids.
          positions_BT: int positions, by default 0..T-1. Packed rows restart them.
          segments_BT: int ids; queries see only keys of their own segment. 0 is padding by convention.
          keys_B: one dropout key a row, or None for no dropout.

        Returns:
          [B, T, D] in the compute dtype.
        """
        length = tokens_BT.shape[1]
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(length), tokens_BT.shape)
        mask = causal_mask(length, segments_BT)
        trunk = self._trunk(params)
        x_BTD = trunk.embed(tokens_BT, positions_BT)
        if keys_B is not None:
            x_BTD = dropout(x_BTD, self.spec.dropout, keys_B, 0)
        x_BTD, _ = self._stacks(params["blocks"], x_BTD, positions_BT, mask, keys_B=keys_B)
        return trunk.final_norm(x_BTD)

    def logits(self, params: Params, x_BTD: jax.Array) -> jax.Array:
        """Hidden states to float32 scores [B, T, V], by the head or by the token embedding when tied."""
        trunk = self._trunk(params)
        if trunk.head is not None:
            return trunk.head(x_BTD).astype(jnp.float32)
        table_VD = trunk.embed.tokens.embedding[...].astype(x_BTD.dtype)
        return jnp.einsum("btd,vd->btv", x_BTD, table_VD, preferred_element_type=jnp.float32)

    def __call__(self, params: Params, tokens_BT: jax.Array, **options) -> jax.Array:
        """Tokens to float32 logits [B, T, V]; options as for `hidden`."""
        return self.logits(params, self.hidden(params, tokens_BT, **options))

    def empty_cache(self, rows: int, slots: int) -> tuple[jax.Array, jax.Array]:
        """Zeroed keys and values, each [L, B, S, K, H] in the compute dtype."""
        spec = self.spec.resolved
        shape = (spec.layers, rows, slots, spec.kv_heads, spec.head_dim)
        return jnp.zeros(shape, jnp.dtype(spec.dtype)), jnp.zeros(shape, jnp.dtype(spec.dtype))

    def decode(self, params, tokens_BT, positions_BT, allowed_BTS, cache, start):
        """Runs T new tokens against a cache: (logits of the last token [B, V], new cache).

        `start` is the slot of the first new token; `allowed_BTS` says which of the S slots each may see.
        """
        trunk = self._trunk(params)
        x_BTD = trunk.embed(tokens_BT, positions_BT)
        mask = Mask(allowed_BTS, False)
        x_BTD, cache = self._stacks(params["blocks"], x_BTD, positions_BT, mask, cache=cache, start=start)
        return self.logits(params, trunk.final_norm(x_BTD[:, -1:]))[:, 0], cache

    def _stacks(self, stacks, x_BTD, positions_BT, mask, *, keys_B=None, cache=None, start=None):
        """Runs consecutive stacks of layers, scanned or unrolled; a frozen first stack costs no backward pass."""

        def layer(x, part):
            params, cached, index = part
            keys = None if keys_B is None else jax.vmap(lambda k: jax.random.fold_in(k, 1 + index))(keys_B)
            y, cached = nnx.merge(self._definitions[1], params)(x, positions_BT, mask, cached, start, keys)
            return (y if self.constrain is None else self.constrain(y)), cached

        if self.spec.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[self.spec.remat], prevent_cse=not self.spec.scan)
        done, caches = 0, []
        for stack in stacks if isinstance(stacks, (tuple, list)) else (stacks,):
            size = jax.tree.leaves(stack)[0].shape[0]
            cached = None if cache is None else tuple(c[done : done + size] for c in cache)
            parts = (stack, cached, jnp.arange(done, done + size))
            if self.spec.scan:
                x_BTD, new = jax.lax.scan(layer, x_BTD, parts)
            else:
                rows = []
                for i in range(size):
                    x_BTD, row = layer(x_BTD, jax.tree.map(lambda a, i=i: a[i], parts))
                    rows.append(row)
                new = None if cache is None else jax.tree.map(lambda *a: jnp.stack(a), *rows)
            done += size
            caches.append(new)
        if cache is None:
            return x_BTD, None
        return x_BTD, jax.tree.map(lambda *a: jnp.concatenate(a), *caches)
