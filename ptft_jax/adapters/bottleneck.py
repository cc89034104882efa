"""Small networks behind or beside a block's sublayers (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for
NLP"; Pfeiffer et al. 2021, "AdapterFusion"; He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer
Learning")."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Method, key_for, place
from ptft_jax.errors import UserError
from ptft_jax.model.block import Block
from ptft_jax.model.layers import ACTIVATIONS, PerRow, Projecting, dropout
from ptft_jax.model.spec import ModelSpec
from ptft_jax.params.rules import flatten

FORMS = ("houlsby", "pfeiffer", "parallel")


class Dense(Projecting):
    """x @ kernel + bias in the dtype of x. `kernel` [in, out], `bias` [out], which starts at zero.

    Not a `Linear`: what one method adds is no target of another.
    """

    def __init__(self, kernel: jax.Array):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((kernel.shape[1],), kernel.dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


def uniform(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """A kernel [in, out] of uniform numbers within 1/sqrt(in)."""
    bound = 1 / math.sqrt(shape[0])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Adapter(nnx.Module):
    """y + scale * up(dropout(act(down(r)))), where r is what the form reads; `down` [D, size], `up` [size, D].

    `up` starts at zero, so the model starts as it was.
    """

    def __init__(self, spec: ModelSpec, method: Bottleneck, site: int, key: jax.Array):
        self.method, self.site = method, site
        dtype = jnp.dtype(spec.param_dtype)
        self.down = Dense(uniform(key, (spec.width, method.size), dtype))
        self.up = Dense(jnp.zeros((method.size, spec.width), dtype))

    def __call__(
        self, sublayer: nnx.Module, x_BTD: jax.Array, y_BTD: jax.Array, sum_BTD: jax.Array, rows: PerRow | None
    ) -> jax.Array:
        method = self.method
        read_BTD = {"houlsby": y_BTD, "pfeiffer": sum_BTD, "parallel": x_BTD}[method.form]
        h = ACTIVATIONS[method.activation](self.down(read_BTD))
        return y_BTD + method.factor * self.up(dropout(h, method.dropout, rows, self.site))


@dataclasses.dataclass(frozen=True)
class Bottleneck(Method):
    """Adds to what a sublayer f puts out, y, before the block adds that to the residual stream x.

    Attributes:
      form: "houlsby": of y, behind attention and behind the MLP (Houlsby et al., figure 2). "pfeiffer": behind the MLP
        alone, of what the block would make of y, such as norm(x + y) (Pfeiffer et al. 2020, "MAD-X", eq. 1). "parallel":
        of what the MLP reads, beside it (He et al., table 1).
      size: of the hidden layer.
      activation: of the hidden layer.
      scale: factor of what is added; 0 = 4 of the parallel form (He et al.), 1 of the others.
      dropout: rate on the hidden layer.
    """

    form: str
    size: int
    activation: str
    scale: float
    dropout: float

    field: ClassVar[str] = "tune.bottleneck"
    mergeable: ClassVar[bool] = False

    @property
    def learning_rate(self) -> float:
        """The middle of the three that Houlsby et al. 2019 search; that of Pfeiffer et al. 2021's adapters of one task; that
        of He et al. 2022 for classification."""
        return 3e-4 if self.form == "houlsby" else 1e-4

    @property
    def factor(self) -> float:
        return self.scale or (4.0 if self.form == "parallel" else 1.0)

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slots of a block's sublayers."""
        if isinstance(module, Block):
            for name in ("attention", "mlp") if self.form == "houlsby" else ("mlp",):
                path = prefix + name
                place(getattr(module, name), Adapter(module.spec, self, *key_for(path, rngs)), path, self)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError where the hidden layer is not narrower than the model."""
        width = flatten(shapes)["blocks/attention/query/kernel"].shape[1]
        if self.size >= width:
            raise UserError(f"config.tune.bottleneck.size: {self.size} is no bottleneck of a model of width {width}")
