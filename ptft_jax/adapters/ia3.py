"""Learned rescaling of activations (Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper
than In-Context Learning", section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import LayerMethod, float32, layers, matching
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.model.layers import Linear, PerRow
from ptft_jax.params.rules import matches

SCALE = "adapter/scale"
FEEDFORWARD = ("blocks/mlp/down",)


class Rescale(nnx.Module):
    """plain(x) * scale with `scale` [out], or plain(x * scale) with `scale` [in]; it starts at one."""

    def __init__(self, layer: Linear, inputs: bool):
        self.inputs = inputs
        self.scale = nnx.Param(jnp.ones((layer.kernel.shape[0 if inputs else 1],), layer.kernel.dtype))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        scale = self.scale[...].astype(layer.dtype if self.inputs else layer.out)
        return layer.plain(x * scale) if self.inputs else layer.plain(x) * scale


@dataclasses.dataclass(frozen=True)
class Ia3(LayerMethod):
    """Multiplies what targeted layers put out, or take in, by learned vectors.

    Attributes:
      targets: regular expressions on whole layer paths; the paper's are the keys, the values and, behind the MLP's
        activation, the down projection.
      feedforward: those of the targets whose input is scaled; the others' outputs are.
    """

    targets: tuple[str, ...]
    feedforward: tuple[str, ...] = FEEDFORWARD

    field: ClassVar[str] = "tune.ia3"
    learning_rate: ClassVar[float] = 3e-3  # Liu et al. 2022, section 3.2

    def scales_input(self, path: str) -> bool:
        """Whether the vector of the targeted layer at `path` multiplies its input."""
        return matches(self.feedforward, path)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Rescale(layer, self.scales_input(path))

    def check(self, shapes: Mapping[str, Any]) -> None:
        super().check(shapes)
        every = layers(shapes)
        for pattern in self.feedforward:
            if pattern in FEEDFORWARD:  # the default may name a layer that is no target
                continue
            found = matching(pattern, every, f"config.{self.field}.feedforward")
            if not any(map(self.targeted, found)):
                targets = [path for path in every if self.targeted(path)]
                raise UserError(
                    f"config.{self.field}.feedforward: {pattern!r} names none of the targets{nearest(pattern, targets)}; "
                    f"targets:{listed(targets, 40)}"
                )

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The kernel's rows, or its columns and the bias, times the vector."""
        scale, kernel = float32(leaves[SCALE]), float32(leaves["kernel"])
        if self.scales_input(path):
            return {"kernel": kernel * scale[..., :, None]}
        folded = {"kernel": kernel * scale[..., None, :]}
        return folded | ({"bias": float32(leaves["bias"]) * scale} if "bias" in leaves else {})
