"""The small singular triplets of a kernel are trained, at right angles to the large ones, which stay (Nayak et al. 2025,
"Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning", section 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import float32
from ptft_jax.adapters.lora import difference, singular
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear, PerRow

LEFT, SINGULAR, RIGHT = "adapter/left", "adapter/singular", "adapter/right"
START_LEFT, START_SINGULAR, START_RIGHT = "adapter/start_left", "adapter/start_singular", "adapter/start_right"
HIGH = "adapter/high"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def guarded(vectors: jax.Array, basis: jax.Array, within: bool) -> jax.Array:
    """`vectors` [size, n] as they are; of their gradient, the part within the span of the orthonormal columns of `basis`
    [size, m], or the part outside it."""
    return vectors


def _backward(within: bool, basis: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    product = functools.partial(jnp.matmul, precision="highest")
    inside = product(float32(basis), product(float32(basis).T, float32(gradient)))
    kept = inside if within else float32(gradient) - inside
    return kept.astype(gradient.dtype), jnp.zeros_like(basis)


guarded.defvjp(lambda vectors, basis, within: (vectors, basis), _backward)


def start(kernel: jax.Array, kept: int) -> dict[str, jax.Array]:
    """The triplets of a kernel [in, out] but for the `kept` largest, and of those the vectors on its longer side.

    On the other side, what is at right angles to the largest is what the rest spans.
    """
    u, s, v = singular(kernel)
    size_in, size_out = kernel.shape
    found = {"left": u[:, kept:], "singular": s[kept:], "right": v[kept:]}
    found |= {f"start_{name}": array for name, array in found.items()}
    if size_in != size_out:
        found["high"] = u[:, :kept] if size_in > size_out else v[:kept].T
    return {name: array if "singular" in name else array.astype(kernel.dtype) for name, array in found.items()}


def factors(leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """[..., in, 2n] and [..., 2n, out], whose product is the difference of the triplets to their start; by leaf's name."""
    a, b = ((float32(leaves[f"{p}left"]) * leaves[f"{p}singular"][..., None, :]) for p in ("", "start_"))
    return difference(a, float32(leaves["right"]), b, float32(leaves["start_right"]))


class Subspace(nnx.Module):
    """plain(x) + x @ (left * singular @ right - the same at the start), with `left` [in, n], `singular` [n], float32, and
    `right` [n, out]. The gradients of `left` and `right` are at right angles to the vectors that are kept."""

    def __init__(self, layer: Linear, kept: int):
        made = start(layer.kernel[...], kept)
        self.names = tuple(made)
        for name, array in made.items():
            setattr(self, name, nnx.Param(array))

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        leaves = {name: getattr(self, name)[...] for name in self.names}
        size_in, size_out = layer.kernel.shape
        left = (leaves["high"], False) if size_in > size_out else (leaves["start_left"], True)
        right = (leaves["high"], False) if size_in < size_out else (leaves["start_right"].T, True)
        leaves |= {"left": guarded(leaves["left"], *left), "right": guarded(leaves["right"].T, *right).T}
        a, b = factors(leaves)
        return layer.plain(x) + layer.product(layer.project(x, a.astype(layer.dtype)), b)


@dataclasses.dataclass(frozen=True)
class Osf(LowRankMethod):
    """Trains the kernels' small singular triplets, in directions that the large ones leave free.

    Attributes:
      kept: how many of the largest triplets of a kernel stay, or below 1 the share of the smaller of its sizes.
      targets: regular expressions on whole layer paths.
    """

    kept: float
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.osf"
    learning_rate: ClassVar[float] = 5e-5  # of PEFT's comparison of methods (MetaMathQA, Llama 3.2 3B)
    scale: ClassVar[float] = 1.0
    fixed: ClassVar[str] = ".*/adapter/(start_(left|singular|right)|high)"
    dropout: ClassVar[float] = 0.0

    def count(self, shape: tuple[int, ...]) -> int:
        """How many triplets of a kernel [in, out] stay."""
        return int(min(shape) * self.kept) if self.kept < 1 else int(self.kept)

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        return Subspace(layer, self.count(layer.kernel.shape))

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        count = self.count(shape)
        if not 0 < count < min(shape):
            raise UserError(
                f"config.{self.field}.kept: {self.kept:g} keeps {count} of the {min(shape)} triplets of {path} {shape}; expected "
                "at least one, and not all"
            )

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return factors({name.removeprefix("adapter/"): a for name, a in leaves.items()})
