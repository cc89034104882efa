"""Sides of a comparison take turns in one process, so that a machine whose speed drifts slows all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def load() -> float | None:
    """Processes that wait for a processor or run, over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 40.0,
    least: float = 0.3,
    rounds: tuple[int, int] = (3, 9),
) -> dict[str, list[float]]:
    """Seconds per call of each side, a value per round. Each has been called before: what it compiles is not counted.

    Args:
      sides: functions that return when their work is done.
      seconds: that all of it should take; how many rounds that is depends on how long one takes.
      least: seconds that a side's turn lasts at least: what is quick is called several times in it.
      rounds: the fewest and the most.
    """
    calls, whole = {}, 0.0
    for name, call in sides.items():  # one round to learn how long they take
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        calls[name] = max(1, round(least / max(took, 1e-6)))
        whole += took * calls[name]
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(min(max(int(seconds / max(whole, 1e-6)), rounds[0]), rounds[1])):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))  # none is always the first
        for name in names:
            began = time.perf_counter()
            for _ in range(calls[name]):
                sides[name]()
            found[name].append((time.perf_counter() - began) / calls[name])
    return found


def summary(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median, fastest and slowest round of each side."""
    return {
        name: {"seconds": statistics.median(row), "low": min(row), "high": max(row)} for name, row in seconds.items()
    }
