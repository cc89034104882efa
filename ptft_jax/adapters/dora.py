"""Low-rank adaptation of a kernel's direction, with its magnitude learned apart (Liu et al. 2024, "DoRA")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32
from ptft_jax.adapters.lora import Lora, LowRank
from ptft_jax.adapters.low_rank import updated
from ptft_jax.model.layers import Linear, PerRow, dropout

MAGNITUDE = "adapter/magnitude"


def norms(kernel: jax.Array) -> jax.Array:
    """The length of the vector behind each output: [..., in, out] to [..., out], above 0."""
    return jnp.maximum(jnp.linalg.norm(kernel, axis=-2), jnp.finfo(jnp.float32).tiny)


class Decomposed(LowRank):
    """x @ (magnitude * V / |V|) + bias, V = kernel + scale * lora_a @ lora_b (eq. 5).

    `magnitude` [out] starts at the kernel's own norms and is kept in float32, whatever the kernel is kept in: it
    stands for large numbers that change by little. |V| takes no gradient (section 4.3).

    Dropout, as in PEFT, acts on the input of everything the method adds: the layer's own x @ kernel sees all of x,
    the difference to it does not.
    """

    def __init__(self, layer: Linear, lora: Lora, site: int, key: jax.Array):
        super().__init__(layer, lora, site, key)
        self.magnitude = nnx.Param(norms(float32(layer.kernel[...])))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        kernel = layer.kernel[...]
        length = norms(updated(kernel, *self.factors(), self.scale))
        factor = (self.magnitude[...] / jax.lax.stop_gradient(length)).astype(layer.out)
        y = layer.product(x, kernel)
        if rows is None or rows.keys is None or self.dropout == 0.0:
            y = factor * (y + self.update(layer, x))
        else:
            x = dropout(x, self.dropout, rows, self.site)
            z = layer.product(x, kernel)
            y = y + factor * (z + self.update(layer, x)) - z
        return y if layer.bias is None else y + layer.bias[...].astype(layer.out)


@dataclasses.dataclass(frozen=True)
class Dora(Lora):
    """LoRA whose updated kernels are rescaled to a learned length per output. Attributes as for `Lora`; of linear layers
    alone."""

    kinds: ClassVar[tuple[type, ...]] = (Linear,)

    @classmethod
    def of(cls, section: Any) -> Lora:
        """DoRA where `config.tune.lora` asks for it, else LoRA."""
        settings = section.read_all()
        return (cls if settings.pop("dora") else Lora)(**settings)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Decomposed(layer, self, site, key)

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """magnitude * V / |V|, V = kernel + scale * lora_a @ lora_b."""
        v = updated(leaves["kernel"], *self.factors(leaves), self.scale)
        return {"kernel": v * (float32(leaves[MAGNITUDE]) / norms(v))[..., None, :]}
