"""Correlation of what was predicted with what is right: of whole sets, since those of parts have no sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

ROWS = "predicted"  # name of a table whose rows are put one after the other, where others are added up
NAMES = ("pearson", "spearman")


def tables(predicted_B: jax.Array, targets_B: jax.Array, weights_B: jax.Array) -> dict[str, jax.Array]:
    """ROWS: float32 [B, 3], of each row what was predicted, what is right, and whether it counts."""
    return {ROWS: jnp.stack([predicted_B, targets_B, (weights_B > 0).astype(jnp.float32)], axis=-1)}


def values(rows: np.ndarray) -> dict[str, float]:
    """Pearson's correlation of the numbers, and of their ranks (Spearman's; equal numbers share the mean of their ranks), of a
    ROWS table; NaN where either side does not vary."""
    predicted, targets, counted = np.asarray(rows, np.float64).T
    pair = predicted[counted > 0], targets[counted > 0]
    return {"pearson": pearson(*pair), "spearman": pearson(*map(ranks, pair))}


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation coefficient of two float64 [n]."""
    if len(one) < 2 or not (np.ptp(one) and np.ptp(other)):
        return float("nan")
    x, y = one - one.mean(), other - other.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def ranks(numbers: np.ndarray) -> np.ndarray:
    """float64 [n]: places in ascending order, from 1; of equal numbers the mean of theirs."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]
