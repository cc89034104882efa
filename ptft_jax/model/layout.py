"""What a model asks of how arrays are spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax


class Layout(Protocol):
    """How arrays are spread over a mesh; hashable."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Activations [B, ...] as they are at block edges."""

    def whole(self, params: Any) -> Any:
        """Parameters as they are used."""

    def apart(self, function: Callable[[Any, Any], jax.Array], rows: Any, shared: Any) -> jax.Array:
        """What a function makes of rows [B, ...] and of what they share, each device of its own rows."""
