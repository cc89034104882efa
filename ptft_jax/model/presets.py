"""Families of transformers as settings of the one model."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError, nearest

# Each value names fields of `config.model`; sizes are the caller's.
FAMILIES: dict[str, dict[str, Any]] = {
    # Radford et al. 2019
    "gpt2": dict(norm="layer", norm_eps=1e-5, activation="gelu_tanh", gated=False, positions="learned", tied=True),
    # Touvron et al. 2023
    "llama": dict(norm="rms", norm_eps=1e-5, activation="silu", gated=True, positions="rotary", biases=(), tied=False),
}


def family(name: str) -> dict[str, Any]:
    """The settings of a family, for `config.model.update(...)`. Raises UserError for an unknown one."""
    if name not in FAMILIES:
        raise UserError(f"no model family {name!r}: expected one of {', '.join(FAMILIES)}{nearest(name, FAMILIES)}")
    return dict(FAMILIES[name])
