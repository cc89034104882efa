"""Learned vectors that the upper layers attend to through a gate (Zhang et al. 2023, "LLaMA-Adapter: Efficient
Fine-tuning of Language Models with Zero-init Attention")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Method, Rules, key_for, place
from ptft_jax.errors import UserError
from ptft_jax.model.attention import Attention, View
from ptft_jax.model.block import Block
from ptft_jax.model.dot_product import EVERYTHING
from ptft_jax.model.spec import ModelSpec
from ptft_jax.params.rules import flatten

HERE = "attention/prefix/.*"
VECTORS, GATE = "blocks/attention/prefix/prompt", "blocks/attention/prefix/gate"


class Gated(nnx.Module):
    """attend(row) + gate * attend(prompt), with a softmax for each (section 3.2).

    `prompt` [n, D] becomes keys and values by the layer's own projections, without positions; `gate` [] starts at zero,
    so the model starts as it was. One gate without a tanh, as in PEFT; the authors' code has one for each head.
    """

    def __init__(self, spec: ModelSpec, length: int, key: jax.Array):
        dtype = jnp.dtype(spec.param_dtype)
        self.prompt = nnx.Param(jax.random.normal(key, (length, spec.width), dtype))
        self.gate = nnx.Param(jnp.zeros((), dtype))

    def __call__(self, attention: Attention, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, view: View):
        y_BTNH = attention.attend(q_BTNH, k_BSKH, v_BSKH, view.seen)
        own = attention.keys_and_values(self.prompt[...].astype(q_BTNH.dtype)[None])
        keys, values = (jnp.broadcast_to(a, (q_BTNH.shape[0], *a.shape[1:])) for a in own)
        prompted = attention.attend(q_BTNH, keys, values, EVERYTHING, "xla")  # a few keys, too odd for a kernel
        return y_BTNH + self.gate[...].astype(y_BTNH.dtype) * prompted


@dataclasses.dataclass(frozen=True)
class GatedPrefix(Method):
    """Lets the queries of the last layers see learned vectors, each layer its own.

    Every layer holds vectors and a gate, as all are stacked; those of lower layers stay frozen with a gate of zero.

    Attributes:
      length: n, the vectors of a layer.
      layers: of how many layers, from the last, they train; 0 = all.
    """

    length: int
    layers: int

    field: ClassVar[str] = "tune.gated_prefix"
    learning_rate: ClassVar[float] = 9e-3  # Zhang et al. 2023, of instructions
    mergeable: ClassVar[bool] = False

    @property
    def rates(self) -> Rules:
        if not self.layers:
            return super().rates
        return ((f"blocks[-{self.layers}:]/{HERE}", 1.0), (f"blocks/{HERE}", 0.0))

    def refuse_rates(self) -> None:
        """As `Method.refuse_rates`."""
        if self.layers:
            rule = f"('blocks[-{self.layers}:]/{HERE}', 1.0)"
            raise UserError(
                f"config.tune.gated_prefix.layers = {self.layers}: config.tune.rates says all rates, so it would have no effect; "
                f"leave it at 0 and put {rule} in tune.rates"
            )

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `prefix` slot of attention."""
        if isinstance(module, Block):
            path = f"{prefix}attention"
            key = key_for(path + "/prefix", rngs)[1]
            place(module.attention, Gated(module.spec, self.length, key), path, self, "prefix")

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError where `layers` are not fewer than the model's."""
        depth = flatten(shapes)["blocks/attention/query/kernel"].shape[0]
        if self.layers >= depth:
            raise UserError(
                f"config.tune.gated_prefix.layers = {self.layers}: expected fewer than the model's {depth}, or 0 for all"
            )
