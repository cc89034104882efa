"""Small models that learn facts about people of the generated world, era after era, which several experiments train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROWS, LENGTH = 16, 64
_PEOPLE = "size=50&attributes=city,hobby"  # ten new people in each of the eras 0 to 4


def source(eras: str) -> str:
    """Questions about people who are first written about in these eras ("2", "0-2"), with answers; all are trained on."""
    return f"world:questions?{_PEOPLE}&era={eras}&split=all"


def config_of(eras: Sequence[str], seed: int, steps: int, rate: float, *, weights: Sequence[float] = (1.0,)) -> Any:
    """Training on questions about people of some eras, of each with its weight. A model that has no parent is a new one."""
    from ptft_jax import config as configs

    config = configs.default()
    config.seed = seed
    config.model.update(layers=2, width=64, heads=4, max_length=LENGTH, scan=False)
    config.data.update(source=source(eras[0]), length=LENGTH, batch_size=ROWS)
    if len(eras) > 1:
        config.data.mixture = tuple((source(era), weight) for era, weight in zip(eras, weights))
    config.optimizer.update(learning_rate=rate, warmup_steps=steps // 10)
    config.training.steps = steps
    config.eval.update(every=0, test=False)
    return config
