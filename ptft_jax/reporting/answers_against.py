"""How a run's answers compare with those that it wrote before it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.rewards.at_equal_length import rates


def against_start(answers: Sequence[Mapping[str, Any]], selected: int | None) -> list[dict[str, Any]]:
    """A row for each verifier: the step, the win rate over the answers of the first evaluation and at equal length, and the mean lengths in
    characters; none where answers were written once.

    Args:
      answers: rows of answers.jsonl.
      selected: the step of the selected checkpoint; where that has no answers, or it is None, the last is taken.
    """
    steps = sorted({row["step"] for row in answers})
    if len(steps) < 2:
        return []
    step = selected if selected in steps[1:] else steps[-1]
    before = {row["where"]: row for row in answers if row["step"] == steps[0]}
    pairs = [(before[row["where"]], row) for row in answers if row["step"] == step and row["where"] in before]
    return [
        {"step": step, "verifier": name, **_compared(name, pairs)} for name in (pairs[0][1]["scores"] if pairs else ())
    ]


def _compared(name: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    known = [(a, b) for a, b in pairs if None not in (a["scores"][name]["value"], b["scores"][name]["value"])]
    ahead = np.array([b["scores"][name]["value"] - a["scores"][name]["value"] for a, b in known])
    lengths = np.array([(len(a["answer"]), len(b["answer"])) for a, b in known], float).reshape(-1, 2)
    found = rates(ahead, lengths[:, 1] - lengths[:, 0])
    means = lengths.mean(axis=0).tolist() if len(known) else [None, None]
    return {"answers": len(known), **found, "length at the start": means[0], "length": means[1]}
