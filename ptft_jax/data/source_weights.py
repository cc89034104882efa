"""The weights of a mixture's sources: numbers, or straight lines between points (step, weight)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.config.spans import is_step, steps_of
from ptft_jax.errors import UserError

FIELD = "config.data.mixture"

Schedule = tuple[np.ndarray, np.ndarray]  # steps int64 [n] in order, weights there float64 [n]


def weight_at(name: str, weight: Any, step: int, steps: int = 0) -> float:
    """The weight of a source at a step of a run of `steps` steps (0 = unknown), as a config writes it. Raises UserError for what is
    no weight."""
    return float(values_at(written(name, _whole(weight, steps), 0), np.asarray([step]))[0])


def written(name: str, weight: Any, steps: int) -> Schedule:
    """A weight as it is written in a config, of a run of `steps` steps (0 = unknown). Raises UserError for what is none."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    points = [(0, weight)] if number(weight) else _whole(weight, steps)
    form = f"{FIELD}: the weight of {name} is a number or ((step, weight), ...), not {weight!r}"
    if not isinstance(points, (list, tuple)) or not points:
        raise UserError(form)
    for point in points:
        if not isinstance(point, (list, tuple)) or len(point) != 2 or not all(map(number, point)):
            raise UserError(form)
        if not is_step(point[0]):
            raise UserError(
                f"{FIELD}: {name}: {point[0]!r} is not a step; steps are 0, 1, 2, ... or shares of the run below 1"
            )
        if not (0 <= point[1] < math.inf):
            raise UserError(f"{FIELD}: the weight of {name} cannot be {point[1]}; weights are 0 or more, and finite")
    at = [step for step, _ in points]
    # How shares lie to whole steps is known when the length of the run is.
    shares = [step for step in at if 0 < step < 1]
    for a, b in [*itertools.pairwise(shares), *itertools.pairwise(step for step in at if step not in shares)]:
        if a >= b:
            raise UserError(f"{FIELD}: the steps of {name} are not in increasing order: {b} follows {a}")
    values = np.asarray([w for _, w in points], np.float64)
    schedule = np.asarray(at, np.int64), values
    # Straight lines: a weight that is ever more than 0 is so at a point or at an end of the run.
    ends = np.asarray([step for step in at if step < steps] + [0, steps - 1])
    if not (values_at(schedule, ends) if steps else values).any():
        raise UserError(f"{FIELD}: the weight of {name} is 0 during the whole run; leave it out")
    return schedule


def _whole(weight: Any, steps: int) -> Any:
    """A weight with the steps of its points as whole numbers, where it has any and is of a run of so many steps (0 = unknown)."""

    def whole(point: Any) -> Any:
        known = isinstance(point, (list, tuple)) and len(point) == 2 and is_step(point[0])
        return (steps_of(point[0], steps), point[1]) if known else point

    return [whole(point) for point in weight] if steps and isinstance(weight, (list, tuple)) else weight


def values_at(schedule: Schedule, steps: np.ndarray) -> np.ndarray:
    """float64 [n]: a weight at steps. Each number depends on its own step alone, not on which are asked for together."""
    points, values = schedule
    if len(points) == 1:
        return np.full(len(steps), values[0])
    at = np.clip(np.searchsorted(points, steps, "right") - 1, 0, len(points) - 2)
    part = np.clip((steps - points[at]) / (points[at + 1] - points[at]), 0.0, 1.0)
    return values[at] * (1 - part) + values[at + 1] * part


def scaled(schedules: list[Schedule], names: Sequence[str], sizes: Sequence[int], temperature: float) -> list[Schedule]:
    """Weights times size ** (1 / temperature), and all by one power of 2 (which rounds nothing) so that sums are finite. Raises UserError where
    one vanishes."""
    largest, out = max(sizes), []
    for name, size, (points, values) in zip(names, sizes, schedules):
        factor = (size / largest) ** (1 / temperature) if temperature else 1.0
        if not factor:
            raise UserError(f"config.data.temperature = {temperature:g} leaves nothing of {name}, with {size} rows")
        out.append((points, values * factor))
    exponent = math.frexp(max(float(values.max()) for _, values in out))[1]
    return [(points, np.ldexp(values, -exponent)) for points, values in out]
