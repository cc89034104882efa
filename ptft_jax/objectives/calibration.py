"""Whether probabilities are what they say: counts that add up over batches and devices, and what is made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TABLE = "calibration"  # name of the table
NAMES = ("brier", "ece")  # of what is made of it
BINS = 10  # of equal width, of how sure a choice between two is: from 1/2 to 1


def tables(right: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """TABLE: float32 [4, BINS]: how many choices between two are as sure as that, the sums of how sure they are, of how often they are
    right, and of the squares of what they lack.

    Args:
      right: float32 [...], the probability that is given to what is right.
      weights: float32 [...], which choices count (above 0).
    """
    counted = (weights > 0).astype(jnp.float32).reshape(-1)
    right = right.reshape(-1)
    sure = jnp.maximum(right, 1 - right)
    values = jnp.stack([jnp.ones_like(sure), sure, 0.5 * (1 + jnp.sign(right - 0.5)), jnp.square(1 - right)])
    place = jnp.clip(((sure - 0.5) * 2 * BINS).astype(jnp.int32), 0, BINS - 1)
    return {TABLE: jnp.zeros((4, BINS), jnp.float32).at[:, place].add(values * counted)}


def values(table: np.ndarray) -> dict[str, float]:
    """ "brier": the mean of (1 - p)^2, with p the probability of what is right (Brier 1950). "ece": the mean over choices of how far apart
    how sure and how often right are, by bins (Guo et al. 2017, section 2). NaN of no choices."""
    count, sure, right, squares = np.asarray(table, np.float64)
    if not count.sum():
        return dict.fromkeys(NAMES, float("nan"))
    return {"brier": float(squares.sum() / count.sum()), "ece": float(np.abs(sure - right).sum() / count.sum())}
