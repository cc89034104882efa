"""Learned keys and values before those of the row, in every layer (Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous
Prompts for Generation")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Method, float32, key_for, place
from ptft_jax.adapters.bottleneck import Dense, uniform
from ptft_jax.model.attention import Attention, View
from ptft_jax.model.block import Block
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.trunk import Trunk
from ptft_jax.params.rules import flatten, unflatten

KEYS, VALUES = "blocks/attention/prefix/keys", "blocks/attention/prefix/values"
SHARED = "prefix/"


class Given(nnx.Module):
    """Attends to the prefix that comes with the view, and to the row: one softmax over both. It has no parameters."""

    def own(self, view: View) -> tuple[jax.Array, jax.Array]:
        return view.prefix

    def __call__(self, attention: Attention, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, view: View):
        def behind(prefix, x_BSKH):
            first = prefix.astype(x_BSKH.dtype).reshape(1, -1, *x_BSKH.shape[2:])
            return jnp.concatenate([jnp.broadcast_to(first, (x_BSKH.shape[0], *first.shape[1:])), x_BSKH], axis=1)

        keys, values = self.own(view)
        return attention.attend(q_BTNH, behind(keys, k_BSKH), behind(values, v_BSKH), view.seen)


class Own(Given):
    """The layer's own prefix: `keys` and `values` [n, K * H]. Neither is rotated or normed."""

    def __init__(self, spec: ModelSpec, length: int, key: jax.Array):
        shape, dtype = (length, spec.kv_heads * spec.head_dim), jnp.dtype(spec.param_dtype)
        keys, values = (spec.init_std * jax.random.normal(k, shape, dtype) for k in jax.random.split(key))
        self.keys, self.values = nnx.Param(keys), nnx.Param(values)

    def own(self, view: View) -> tuple[jax.Array, jax.Array]:
        return self.keys[...], self.values[...]


class Shared(nnx.Module):
    """The prefixes of all layers by one network: out(tanh(hidden(embedding))) (section 4.3).

    `embedding` [n, K * H], `hidden` [K * H, size], `out` [size, L * 2 * K * H] with a layer's keys before its values. They
    start as torch's layers do, but for `out`, whose kernel is normal with the model's `init_std`.
    """

    def __init__(self, spec: ModelSpec, method: Prefix, key: jax.Array):
        self.layers = spec.layers
        keys, width = jax.random.split(key, 3), spec.kv_heads * spec.head_dim
        size, dtype = method.reparameterize, jnp.dtype(spec.param_dtype)
        self.embedding = nnx.Param(jax.random.normal(keys[0], (method.length, width), dtype))
        self.hidden = Dense(uniform(keys[1], (width, size), dtype))
        out = jax.random.normal(keys[2], (size, spec.layers * 2 * width), dtype)
        self.out = Dense(spec.init_std * out)

    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """The keys and the values of all layers, each [L, n, K * H] in float32."""
        y = self.out(jnp.tanh(self.hidden(float32(self.embedding[...]))))
        y = y.reshape(y.shape[0], self.layers, 2, -1)
        return y[:, :, 0].swapaxes(0, 1), y[:, :, 1].swapaxes(0, 1)


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
    """Places learned keys and values before those of every row, in every layer; every query sees them.

    They take the first positions, so the row's positions start at their number. Sliding windows count them there.

    Attributes:
      length: n, how many.
      reparameterize: the hidden size of one network that makes the prefixes of all layers while training; 0 = none.
    """

    length: int
    reparameterize: int

    field: ClassVar[str] = "tune.prefix"
    starts_as_base: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False

    @property
    def learning_rate(self) -> float:
        """That of Li & Liang 2021 with the network; of prefixes alone, PEFT's comparison of methods (MetaMathQA)."""
        return 5e-5 if self.reparameterize else 1e-3

    @property
    def prefix_length(self) -> int:
        return self.length

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `prefix` slots of attention and, for the shared network, of the trunk."""
        if isinstance(module, Block):
            path = f"{prefix}attention"
            key = key_for(path + "/prefix", rngs)[1]
            own = Given() if self.reparameterize else Own(module.spec, self.length, key)
            place(module.attention, own, path, self, "prefix")
        elif isinstance(module, Trunk) and self.reparameterize:
            shared = Shared(module.embed.spec, self, key_for("prefix", rngs)[1])
            place(module, shared, "the keys and values of every layer", self, "prefix")

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
        """Every layer with the prefix that the shared network gives it."""
        if not self.reparameterize:
            return self, params
        flat = {p: a for p, a in flatten(params).items() if not p.startswith(SHARED)}
        dtype = trunk.prefix.embedding.dtype
        made = {path: array.astype(dtype) for path, array in zip((KEYS, VALUES), trunk.prefix())}
        return Prefix(self.length, 0), unflatten(flat | made)
