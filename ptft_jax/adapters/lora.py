"""Low-rank adaptation of linear layers (Hu et al. 2021, "LoRA", eq. 3)."""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.model.layers import Linear, dropout
from ptft_jax.params.rules import flatten, unflatten

A, B = "adapter/lora_a", "adapter/lora_b"


class LowRank(nnx.Module):
    """y + scale * (dropout(x) @ lora_a) @ lora_b, with `lora_a` [in, R] and `lora_b` [R, out]."""

    def __init__(self, layer: Linear, lora: Lora, site: int, key: jax.Array):
        size_in, size_out = layer.kernel.shape
        self.scale, self.dropout, self.site = lora.scale, lora.dropout, site
        # Uniform(-1/sqrt(in), 1/sqrt(in)) and zeros, as in the authors' code: the update starts at zero.
        bound = 1 / math.sqrt(size_in)
        dtype = layer.kernel.dtype
        self.lora_a = nnx.Param(jax.random.uniform(key, (size_in, lora.rank), dtype, -bound, bound))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out), dtype))

    def __call__(self, layer: Linear, x: jax.Array, y: jax.Array, keys: jax.Array | None) -> jax.Array:
        h = dropout(x, self.dropout, keys, self.site)
        h = jnp.dot(jnp.dot(h, self.lora_a[...].astype(layer.dtype)), self.lora_b[...].astype(layer.dtype))
        return y + h * self.scale


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adds low-rank updates to the linear layers whose path matches one of `targets`.

    Attributes:
      rank: R, the rank of each update.
      alpha: the update is scaled by alpha / R.
      rank_stabilized: scale by alpha / sqrt(R) instead (Kalajdzievski 2023, "rsLoRA").
      dropout: rate on the adapter's input.
      targets: regular expressions on whole layer paths, such as `blocks/attention/(query|value)`.
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    dropout: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of every targeted `Linear` below `module`, whose own path is `prefix`."""
        for path, layer in nnx.iter_modules(module):
            name = prefix + "/".join(map(str, path))
            if isinstance(layer, Linear) and self.targeted(name):
                # A key of the layer's own, so that adding a target leaves the others' start unchanged.
                site = zlib.crc32(name.encode()) & 0x7FFFFFFF
                key = jax.random.fold_in(rngs.adapter.key[...], site)
                layer.adapter = nnx.data(LowRank(layer, self, site, key))

    def targeted(self, path: str) -> bool:
        """Whether the linear layer at `path` is adapted."""
        return any(re.fullmatch(pattern, path) for pattern in self.targets)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError for a target that names no linear layer, or a rank above a target's size."""
        kernels = {p[: -len("/kernel")]: a.shape for p, a in flatten(shapes).items() if p.endswith("/kernel")}
        for pattern in self.targets:
            try:
                found = [path for path in kernels if re.fullmatch(pattern, path)]
            except re.error as e:
                raise UserError(f"tune.lora.targets: {pattern!r} is not a regular expression: {e}") from e
            if not found:
                raise UserError(
                    f"tune.lora.targets: {pattern!r} matches no linear layer{nearest(pattern, kernels)}; "
                    f"layers:{listed(kernels, 40)}"
                )
            for path in found:
                if self.rank > min(kernels[path][-2:]):
                    raise UserError(
                        f"tune.lora.rank: {self.rank} is above the size of {path}/kernel {kernels[path][-2:]}"
                    )

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Folds the updates into the kernels, kernel + scale * a @ b, and drops the adapters' leaves."""
        flat = flatten(params)
        merged = {p: a for p, a in flat.items() if not p.endswith((A, B))}
        for path, a in flat.items():
            if path.endswith(A):
                layer = path[: -len(A)]
                kernel = merged[layer + "kernel"]
                update = jnp.matmul(a.astype(jnp.float32), flat[layer + B].astype(jnp.float32), precision="highest")
                merged[layer + "kernel"] = (kernel.astype(jnp.float32) + self.scale * update).astype(kernel.dtype)
        return unflatten(merged)
