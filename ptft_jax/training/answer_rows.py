"""Arrays of rows that hold answers after their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.rows import Rows


def blank(count: int, length: int) -> Rows:
    """A batch of so many rows that hold nothing: inputs, targets, positions and segments int32 [count, length], weights float32."""
    shape = (count, length)
    names = ("inputs", "targets", "positions", "segments")
    return {**{name: np.zeros(shape, np.int32) for name in names}, "weights": np.zeros(shape, np.float32)}


def put(out: Rows, n: int, ids: Sequence[int], before: int, at: int = 0, segment: int = 1) -> int:
    """Lays a text into row `n` from the position `at` on, as a segment of its own of which what follows `before` tokens is learned. Gives
    the position after it."""
    stop = at + len(ids) - 1
    here = slice(at, stop)
    out["inputs"][n, here], out["targets"][n, here] = ids[:-1], ids[1:]
    out["positions"][n, here], out["segments"][n, here] = np.arange(stop - at), segment
    out["weights"][n, at + before - 1 : stop] = 1
    return stop
