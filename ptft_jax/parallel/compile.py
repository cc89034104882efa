"""What is compiled around the step, and its numbers on the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def donating(make: Callable[..., Any], shardings: Any, donate: Sequence[int]) -> Callable[..., Any]:
    """`make` compiled with its output's shardings; the arguments of the numbers in `donate` are given up."""
    compiled = jax.jit(make, out_shardings=shardings, donate_argnums=tuple(donate))

    def call(*args: Any) -> Any:
        with warnings.catch_warnings():  # what is not taken as it is, such as a grown table, is just given up
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            return compiled(*args)

    return call


def to_host(metrics: dict) -> dict:
    """Metrics as Python floats, (sum, weight) pairs as pairs of these, and tables [n, m] in float64; copies of pmap's devices
    become one."""

    def number(array: np.ndarray) -> Any:
        if array.ndim > 1:
            return array.reshape(-1, *array.shape[-2:])[0].astype(np.float64)
        return float(array.reshape(-1)[0])

    host = jax.device_get(metrics)  # all at once: the copies overlap
    return {k: tuple(map(number, v)) if isinstance(v, tuple) else number(v) for k, v in host.items()}
