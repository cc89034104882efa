"""Parameters that are not finite, found before something is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.errors import UserError, listed


@jax.jit
def _counts(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves]


def refuse(flat: Mapping[str, Any], where: str, advice: str = "") -> None:
    """Raises UserError that names the leaves of `flat`, arrays by path, that hold a NaN or an infinity.

    Args:
      flat: NumPy arrays, or JAX arrays, which may be spread over devices and processes.
      where: whose they are.
      advice: what to do about it.
    """
    on_device = {path: array for path, array in flat.items() if isinstance(array, jax.Array)}
    found = dict(zip(on_device, map(int, _counts(list(on_device.values())))))
    found |= {p: int(np.count_nonzero(~np.isfinite(a))) for p, a in flat.items() if p not in on_device}
    wrong = [f"{path}: {count:,} of {np.size(flat[path]):,}" for path, count in found.items() if count]
    if wrong:
        raise UserError(f"{where}: these have numbers that are not finite (NaN or infinity):{listed(wrong)}{advice}")
