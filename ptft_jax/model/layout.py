"""What a model asks of how arrays are spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax

EXPERTS = "expert"  # the name of the mesh axis along which devices have some of the experts each, and rows of their own
ROWS = ("replica", "fsdp", EXPERTS)  # those of all axes along which devices have rows of their own
CONTEXT = "context"  # the name of the mesh axis along which devices have parts of the same rows, by position
HIDDEN = "tensor"  # the name of the mesh axis along which devices have parts of an expert's hidden units


class Layout(Protocol):
    """How arrays are spread over a mesh; hashable."""

    @property
    def expert_parts(self) -> int:
        """Devices that have some of a layer's experts each."""

    @property
    def context_parts(self) -> int:
        """Into how many parts the positions of a row are divided."""

    @property
    def platform(self) -> str:
        """What the devices are: "cpu", "gpu" or "tpu"."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Activations [B, T, ...] as they are at block edges."""

    def heads(self, x_BTNH: jax.Array) -> jax.Array:
        """Queries, keys or values of attention by their heads. Keys and values may come back with each head repeated."""

    def around(self, function: Callable[..., jax.Array], q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, seen: Any) -> jax.Array:
        """What a function gives of queries, keys, values and `Seen` where each device has its own rows and heads, and its own part of the
        positions if these are divided."""

    def whole(self, params: Any) -> Any:
        """Parameters as they are used."""

    def experts(self, function: Callable[[Any, Any], jax.Array], rows: Any, params: Any) -> jax.Array:
        """What a function makes of rows [B, ...] and a layer's experts, which have `params`, each device of its own rows. It adds up what
        hidden units give, of which it may get some of each expert's."""
