"""What rows of answers whose steps have labels cannot be: cut before a step, or all alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.rows import RowSet
from ptft_jax.errors import UserError


def refuse_cut(how: str, overlong: str) -> None:
    """Raises UserError where rows that are packed as `how`, of `config.data.overlong`, have steps without what comes before them."""
    if how == "concat" or overlong == "split":
        field = "packing = 'concat'" if how == "concat" else "overlong = 'split'"
        raise UserError(
            f"config.data.{field}: a step is read after all that comes before it, so answers are not cut there: leave it away"
        )


def refuse_alike(sets: Sequence[RowSet], field: str) -> None:
    """Raises UserError where all steps of all training rows have the same label: one number would be learned for whatever is read."""
    steps, right = sum(rows.learned() or 0 for rows in sets), sum(map(_right, sets))
    if right in (0, steps):
        raise UserError(
            f"{field}: all {steps:,} steps of the training rows are {'right' if right else 'wrong'}, which tells no two apart: expected some of "
            "either kind"
        )


def _right(rows: RowSet) -> int:
    """How many steps of rows are right."""
    first, last = np.searchsorted(rows.store.right, rows.spans.T)
    return int((last - first).sum())
