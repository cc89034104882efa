"""What fine-tuning methods offer, and what those that change linear layers share: targets, slots, merging."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.model.layers import Linear
from ptft_jax.params.rules import flatten, matches, regex, unflatten

SLOT = "/adapter/"


class Method(Protocol):
    """What a run knows of a fine-tuning method: it makes its modules, checks itself against a model, and merges.

    A method is hashable. `ptft_jax.adapters.prompt` is one that is not about layers.
    """

    field: ClassVar[str]
    mergeable: ClassVar[bool]

    @property
    def virtual_tokens(self) -> int: ...
    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None: ...
    def check(self, shapes: Mapping[str, Any]) -> None: ...
    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]: ...


class LayerMethod:
    """A fine-tuning method that puts one small module into each targeted linear layer.

    A method is a frozen dataclass with a field `targets` that says what goes into a layer (`module`) and how it is
    folded into the layer's own parameters (`fold`); the rest is here. Leaves lie at `LAYER/adapter/NAME`.

    Attributes:
      field: the section of the config, for messages.
      mergeable: whether `merge` can give the parameters of a plain model.
      virtual_tokens: how many positions before the tokens the method takes.
      targets: regular expressions on whole layer paths, such as `blocks/attention/(query|value)`.
    """

    field: ClassVar[str]
    mergeable: ClassVar[bool] = True
    virtual_tokens: ClassVar[int] = 0
    targets: tuple[str, ...]

    def module(self, layer: Linear, path: str, site: int, key: jax.Array) -> nnx.Module:
        """What goes into `layer.adapter`: called as `(layer, x, keys)` in place of `layer.plain(x)`.

        Args:
          site: a number of this layer's own, for `ptft_jax.model.layers.dropout`.
          key: for random initial values; depends on the layer's path alone.
        """
        raise NotImplementedError

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The plain layer's leaves that say the same as `leaves` of an adapted one.

        Args:
          path: of the layer.
          leaves: `kernel` [..., in, out], where there is one `bias` [..., out], and the adapter's own as
            `adapter/NAME`; those of stacked layers with a leading axis.

        Returns:
          Those of `kernel` and `bias` that change, in float32.
        """
        raise NotImplementedError

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        """Raises UserError where a targeted layer with a kernel of `shape` (in, out) cannot be adapted."""

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of every targeted `Linear` below `module`, whose own path is `prefix`."""
        for path, layer in nnx.iter_modules(module):
            name = prefix + "/".join(map(str, path))
            if isinstance(layer, Linear) and self.targeted(name):
                # A key of the layer's own, so that adding a target leaves the others' start unchanged.
                site = zlib.crc32(name.encode()) & 0x7FFFFFFF
                key = jax.random.fold_in(rngs.adapter.key[...], site)
                layer.adapter = nnx.data(self.module(layer, name, site, key))

    def targeted(self, path: str) -> bool:
        """Whether the linear layer at `path` is adapted."""
        return matches(self.targets, path)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError for a target that names no linear layer of a plain model, or one that cannot be adapted."""
        kernels = {p.removesuffix("/kernel"): a.shape for p, a in flatten(shapes).items() if p.endswith("/kernel")}
        for pattern in self.targets:
            for path in matching(pattern, kernels, f"{self.field}.targets"):
                self.check_layer(path, kernels[path][-2:])

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Whole parameters without the adapters' leaves, their effect folded into kernels and biases."""
        flat = flatten(params)
        merged = {path: array for path, array in flat.items() if SLOT not in path}
        for layer in adapted(flat):
            leaves = {p.removeprefix(layer + "/"): a for p, a in flat.items() if p.startswith(layer + "/")}
            for name, array in self.fold(layer, leaves).items():
                merged[f"{layer}/{name}"] = array.astype(leaves[name].dtype)
        return unflatten(merged)


def adapted(flat: Mapping[str, Any]) -> list[str]:
    """Paths of the layers that hold an adapter, from flat parameters."""
    return list(dict.fromkeys(path.split(SLOT)[0] for path in flat if SLOT in path))


def matching(pattern: str, layers: Mapping[str, Any], field: str) -> list[str]:
    """The layers that a target pattern names. Raises UserError where it names none or is no regular expression."""
    found = list(filter(regex(pattern, field).fullmatch, layers))
    if not found:
        raise UserError(
            f"{field}: {pattern!r} matches no linear layer{nearest(pattern, layers)}; layers:{listed(layers, 40)}"
        )
    return found


def float32(array: jax.Array) -> jax.Array:
    """The array in the precision that folding computes in."""
    return jnp.asarray(array).astype(jnp.float32)
