"""Fine-tuning methods on a base whose kernels are quantized (Dettmers et al. 2023, "QLoRA")."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from ptft_jax.adapters.base import Encode, Method, Rules, Updates, is_added, layers, matching
from ptft_jax.adapters.options import QuantizeOptions
from ptft_jax.errors import UserError, listed
from ptft_jax.model.layers import Linear
from ptft_jax.model.moe import ExpertLinear
from ptft_jax.model.quantized import CODES, Quantization, QuantizedKernel, dequantize, plain_path, quantize
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, matches, unflatten


@dataclasses.dataclass(frozen=True)
class QuantizedBase(Method):
    """A method whose base is kept quantized: frozen, and not saved, since the base says it.

    What the method adds is made for, and trained on, the dequantized kernels. Whole parameters come in two forms: with the
    base's own kernels, as they are read back from a run, and with quantized ones, as the model takes them.

    Attributes:
      method: what is added.
      how: the format.
      targets: regular expressions on paths of linear layers and experts whose kernels are quantized.
    """

    method: Method
    how: Quantization
    targets: tuple[str, ...]

    field: ClassVar[str] = "tune.quantize"
    starts_as_base: ClassVar[bool] = False

    @classmethod
    def of(cls, section: Any, method: Method) -> QuantizedBase:  # type: ignore[override]
        """A method on the base that `config.tune.quantize` describes."""
        return cls(method, Quantization(section.format, section.block, section.double), tuple(section.targets))

    def refuse_rates(self) -> None:
        self.method.refuse_rates()

    @property
    def quantization(self) -> Quantization:  # type: ignore[override]
        return self.how

    @property
    def bare(self) -> Method:
        return self.method

    @property
    def learning_rate(self) -> float:
        return self.method.learning_rate

    @property
    def mergeable(self) -> bool:
        return self.method.mergeable

    @property
    def virtual_tokens(self) -> int:
        return self.method.virtual_tokens

    @property
    def prefix_length(self) -> int:
        return self.method.prefix_length

    @property
    def reads_neighbors(self) -> bool:
        return self.method.reads_neighbors

    @property
    def note(self) -> str:
        return self.method.note

    def encoded(self, encode: Encode) -> Method:
        return dataclasses.replace(self, method=self.method.encoded(encode))

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
        method, params = self.method.collapsed(trunk, params)
        return dataclasses.replace(self, method=method), params

    @property
    def rates(self) -> Rules:
        return self.method.rates

    # Of several adapters (`ptft_jax.adapters.multi_adapter`) on one quantized base.

    @property
    def names(self) -> tuple[str, ...]:
        return self.method.names

    @property
    def one(self) -> QuantizedBase:
        return dataclasses.replace(self, method=self.method.one)

    def number(self, name: str, field: str) -> int:
        return self.method.number(name, field)

    def pick(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        return self.method.pick(params, number)

    def updates(self, partition: Partition, steps: int) -> Updates:
        trained = [leaf.path for leaf in partition.leaves if leaf.trains and plain_path(leaf.source) != leaf.source]
        if trained:
            raise UserError(
                f"config.tune.rates: these are of quantized kernels, which cannot train:{listed(trained, 20)}\n"
                "freeze them, or leave them out of tune.quantize.targets"
            )
        return self.method.updates(partition, steps)

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        for path, layer in nnx.iter_modules(module):
            if isinstance(layer, (Linear, ExpertLinear)) and matches(self.targets, prefix + "/".join(map(str, path))):
                layer.kernel = nnx.data(QuantizedKernel(layer.kernel[...], self.how))
        self.method(module, prefix, rngs)

    def check(self, shapes: Mapping[str, Any]) -> None:
        found = layers(shapes)
        for pattern in self.targets:
            for path in matching(pattern, found, f"config.{self.field}.targets", (Linear, ExpertLinear)):
                size = found[path].shape[-2]
                if self.how.format == "nf4" and size % 2:
                    raise UserError(
                        f"config.{self.field}.format = 'nf4': two inputs share a byte, and {path} has {size}; leave it out "
                        f"of {self.field}.targets"
                    )
        self.method.check(shapes)

    def encode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Whole parameters with the targets' kernels quantized."""
        return unflatten(
            {
                f"{path}/{name}" if name else path: leaf
                for path, array in flatten(params).items()
                for name, leaf in (_quantize(array, self.how) if self.quantizes(path) else {"": array}).items()
            }
        )

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `encode`, but for what quantizing rounds."""
        flat = flatten(params)
        # A model's own parameters are kept in one dtype, but for those that train, which may be wider.
        own = [a.dtype for p, a in flat.items() if plain_path(p) == p and not is_added(p)]
        dtype = min(own, key=lambda d: d.itemsize)
        whole = {p: a for p, a in flat.items() if plain_path(p) == p}
        for path in (plain_path(p) for p in flat if plain_path(p) != p and p.endswith(f"/{CODES}")):
            leaves = {p.removeprefix(path + "/"): a for p, a in flat.items() if plain_path(p) == path}
            whole[path] = _dequantize(leaves, self.how, dtype)
        return unflatten(whole)

    def merge(self, params: Mapping[str, Any], into: str = "dequantized") -> dict[str, Any]:
        """Whole parameters of a plain model, the method's leaves folded into its kernels.

        Args:
          into: "dequantized" leaves the logits as they are; "original" adds to the base's own kernels what was learned for
            the dequantized ones, which is another function, and needs `params` in the base's form.
        """
        return self.method.merge(self._dense(params) if into == "dequantized" else params)

    def folded(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.method.folded(self._dense(params))

    def _dense(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Whole parameters in either form with the kernels that the model computes with."""
        flat = flatten(params)
        if any(plain_path(path) != path for path in flat):
            return self.decode(params)
        whole = {
            p: _dequantize(_quantize(a, self.how), self.how, a.dtype) for p, a in flat.items() if self.quantizes(p)
        }
        return unflatten({**flat, **whole})

    def quantizes(self, path: str) -> bool:
        """Whether the leaf at `path` of a plain model is a kernel that is kept quantized."""
        layer, _, name = path.rpartition("/")
        return name == "kernel" and not is_added(path) and matches(self.targets, layer)


@functools.partial(jax.jit, static_argnums=1)
def _quantize(kernel: jax.Array, how: Quantization) -> dict[str, jax.Array]:
    return quantize(kernel, how)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _dequantize(leaves: dict[str, jax.Array], how: Quantization, dtype: Any) -> jax.Array:
    return dequantize(leaves, how, dtype)


def build(section: QuantizeOptions, method: Method | None) -> Method | None:
    """The method on the base that `config.tune.quantize` describes. Raises UserError where there is none."""
    if section.format == "none":
        return method
    if method is None:
        raise UserError(
            f"config.tune.quantize.format = {section.format!r}: tune.method = 'full' trains the kernels, and quantized ones "
            "cannot be: choose a method that adds something, such as tune.method='lora'"
        )
    return QuantizedBase.of(section, method)
