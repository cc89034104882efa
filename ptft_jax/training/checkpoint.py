"""`ptft_jax.runs.checkpoint` and `ptft_jax.runs.saving` under their former name."""

from ptft_jax.runs.checkpoint import (
    Damaged,
    Gone,
    best_step,
    compare,
    read,
    read_leaf,
    read_meta,
    resolve,
    shapes,
)
from ptft_jax.runs.saving import Checkpoints

__all__ = [
    "Checkpoints",
    "Damaged",
    "Gone",
    "best_step",
    "compare",
    "read",
    "read_leaf",
    "read_meta",
    "resolve",
    "shapes",
]
