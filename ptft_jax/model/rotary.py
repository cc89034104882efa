"""Rotary positions (Su et al. 2021) and the ways to stretch them to longer texts."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.model.spec import ModelSpec

Table = tuple[jax.Array, jax.Array]


def tables(spec: ModelSpec, positions_BT: jax.Array, kind: str) -> Table:
    """(cos, sin), each float32 [B, T, rotated / 2], for the layers of a kind; "nope" layers do not rotate."""
    half = int(spec.head_dim * spec.rope_fraction) // 2
    if kind == "nope":
        shape = (*positions_BT.shape, half)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    if kind == "sliding" and spec.rope_local_theta:
        frequencies, factor = spec.rope_local_theta ** (-jnp.arange(half, dtype=jnp.float32) / half), 1.0
    else:
        frequencies, factor = _frequencies(spec.rope_theta, half, dict(spec.rope_scaling), positions_BT)
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x_BTNH: jax.Array, table: Table) -> jax.Array:
    """Rotates the first 2 * rotated/2 entries of every head (Su et al. 2021, eq. 34), halves convention
    (x1, x2) -> (x1 c - x2 s, x2 c + x1 s); the rest passes."""
    cos, sin = (t[..., None, :] for t in table)
    half = cos.shape[-1]
    x1, x2, rest = jnp.split(x_BTNH.astype(jnp.float32), [half, 2 * half], axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], axis=-1).astype(x_BTNH.dtype)


def _frequencies(theta: float, half: int, scaling: dict[str, Any], positions_BT: jax.Array) -> tuple[jax.Array, float]:
    """Angles a position [half] (or [B, 1, half] where they depend on a row's length), and the factor on cos and sin."""
    plain = theta ** (-np.arange(half, dtype=np.float64) / half)
    kind = scaling.get("kind", "none")
    if kind == "none":
        return jnp.asarray(plain, jnp.float32), 1.0
    if kind == "linear":  # Chen et al. 2023, "Position Interpolation", eq. 4
        return jnp.asarray(plain / scaling["factor"], jnp.float32), 1.0
    if kind == "llama3":
        return jnp.asarray(_llama3(plain, scaling), jnp.float32), 1.0
    if kind == "yarn":
        return jnp.asarray(_yarn(plain, theta, scaling), jnp.float32), scaling["attention_factor"]
    length_B = jnp.max(positions_BT, axis=-1).astype(jnp.float32)[:, None, None] + 1
    if kind == "dynamic":  # "NTK-aware": a longer row has a larger base (Peng et al. 2023, "YaRN", section 3.3)
        factor, original = scaling["factor"], scaling["original"]
        stretch = factor * jnp.maximum(length_B, original) / original - (factor - 1)
        base = theta * stretch ** (half / (half - 1))
        return base ** (-jnp.arange(half, dtype=jnp.float32) / half), 1.0
    # longrope (Ding et al. 2024): searched factors, other ones for rows longer than those trained on
    short, long = (jnp.asarray(plain / np.asarray(scaling[f"{k}_factor"]), jnp.float32) for k in ("short", "long"))
    return jnp.where(length_B > scaling["original"], long, short), scaling["attention_factor"]


def _llama3(plain: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1's release)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original"] * plain / (2 * math.pi)  # full turns within the trained length
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling["factor"])


def _yarn(plain: np.ndarray, theta: float, scaling: dict[str, Any]) -> np.ndarray:
    """The ramp between interpolation and extrapolation (Peng et al. 2023, "YaRN", eq. 18 to 23)."""
    half = len(plain)

    def place(turns: float) -> float:  # the (fractional) frequency that makes so many turns within the trained length
        return half * math.log(scaling["original"] / (turns * 2 * math.pi)) / math.log(theta)

    low, high = place(scaling["beta_fast"]), place(scaling["beta_slow"])
    if scaling["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
    return plain * (1 - ramp) + plain / scaling["factor"] * ramp
