"""What a model asks of that which changes it: a fine-tuning method (`ptft_jax.adapters.base.Method`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from ptft_jax.model.quantized import Quantization


class Adapt(Protocol):
    """Fills slots of a model's modules, `adapter` and `prefix`. Hashable, as it is part of a model.

    Attributes:
      virtual_tokens: how many learned vectors it places before the tokens of a row (prompt tuning).
      prefix_length: how many keys it places before those of a row in every layer (prefix tuning).
      reads_neighbors: whether it reads what was found for each chunk of a row (`Inputs.neighbors`).
      names: of several adapters, of which each row has one; () where there is one for all rows.
      quantization: how the kernels of the model's base are kept; None = as they are.
    """

    @property
    def virtual_tokens(self) -> int: ...

    @property
    def prefix_length(self) -> int: ...

    @property
    def reads_neighbors(self) -> bool: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def quantization(self) -> Quantization | None: ...

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills slots below `module`, whose own path is `prefix`."""

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Adapt, Mapping[str, Any]]:
        """What does the same without what only training needs, and its parameters."""
