"""What runs had forgotten when they had gained the same. They end at different gains, so their ends alone mislead: who goes on longer gains
more and forgets more."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence

from ptft_jax.runs.workdir import Workdir

Path = list[tuple[float, float]]


def path_of(workdir: pathlib.Path) -> Path:
    """(gain, forgetting) at each evaluation of a run, in nats, on validation splits, from (0, 0) at its start; [] where they were not both
    measured, and of a run with several adapters. Raises UserError for a damaged file."""
    rows = {
        row["step"]: row for row in Workdir(workdir).read_metrics() if {"validation/nll", "source/nll"} <= row.keys()
    }
    if 0 not in rows or len(rows) < 2:
        return []
    start = rows[0]
    return [
        (start["validation/nll"] - rows[step]["validation/nll"], rows[step]["source/nll"] - start["source/nll"])
        for step in sorted(rows)
    ]


def reached(paths: Sequence[Path]) -> float | None:
    """The largest gain that every path reaches; None where one gains nothing, or there is none."""
    most = min((max((gain for gain, _ in path), default=0.0) for path in paths), default=0.0)
    return most if most > 0 else None


def forgotten(path: Path, gain: float) -> float | None:
    """What was forgotten when a gain was first reached, linear between two evaluations; None where it never was."""
    for (before, a), (after, b) in itertools.pairwise(path):
        if before < gain <= after:
            return a + (b - a) * (gain - before) / (after - before)
    return None
