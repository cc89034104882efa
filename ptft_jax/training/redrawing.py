"""Dynamic sampling (Yu et al. 2025, DAPO, section 3.2): in the place of prompts whose answers are all as good as each other, from which
nothing is learned, others are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def alike(rows: Sequence[Mapping[str, Any]], samples: int) -> np.ndarray:
    """Of each prompt, which has `samples` answers in a row, whether the rewards of all that have one are the same, bool [prompts]. A single
    answer has none to be compared with, and is not."""
    rewards = np.array([row["reward"] - row["penalty"] for row in rows]).reshape(-1, samples)
    known = ~np.array([row["unscored"] for row in rows]).reshape(-1, samples)
    most, least = (np.where(known, rewards, -sign * np.inf) for sign in (1, -1))
    return (most.max(axis=1) <= least.min(axis=1)) & (samples > 1)


def varied(rows: Sequence[Mapping[str, Any]], samples: int) -> int:
    """How many prompts there are from whose answers something is learned."""
    return int((~alike(rows, samples)).sum())


def choose(rows: Sequence[dict[str, Any]], samples: int, count: int) -> None:
    """Says of each answer whether it is among those of the `count` prompts that are learned from: such as are not alike, and where these
    are too few, the first of the others. Of all of them it says how often was drawn, and which share of the prompts asked was alike."""
    same = alike(rows, samples)
    best = np.sort(np.argsort(same, kind="stable")[:count])
    for place, row in enumerate(rows):
        row["kept"] = bool(place // samples in best)
        row["rounds"], row["alike_asked"] = 1 + rows[-1]["again"], float(same.mean())


def kept(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers that are learned from."""
    return [row for row in rows if row.get("kept", True)]
