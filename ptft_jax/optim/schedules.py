"""Learning rates by step: a linear warm-up, then one of five shapes, all composed from Optax's schedules."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "linear", "wsd", "constant", "rsqrt")


def from_config(config: Any, steps: int) -> optax.Schedule:
    """The schedule of `config.optimizer` over a run of `steps`; reads only the fields that its shape uses."""
    options: dict[str, float] = {}
    if config.schedule in ("cosine", "linear", "wsd"):
        options["end_ratio"] = config.end_ratio
    if config.schedule == "wsd":
        options["decay_fraction"] = config.decay_fraction
    return build(config.schedule, config.learning_rate, warmup=config.warmup_steps, total=max(steps, 1), **options)


def build(
    name: str, peak: float, *, warmup: int, total: int, end_ratio: float = 0.0, decay_fraction: float = 0.2
) -> optax.Schedule:
    """The schedule `step -> learning rate`; step counts optimizer updates from 0.

    Args:
      name: "cosine", "linear": from `peak` to `peak * end_ratio` at `total`. "wsd": `peak`, then linearly down over
        the last `decay_fraction` of all steps (Hu et al. 2024, "MiniCPM", section 4). "constant": `peak`.
        "rsqrt": peak * sqrt(w / step) with w = max(warmup, 1) (Raffel et al. 2020, section 3.1.2).
      peak: the highest rate.
      warmup: steps of linear rise; the first step already has peak / (warmup + 1).
      total: steps of the whole run, at least 1.

    Raises:
      KeyError: an unknown name (the config checks names first).
    """
    rest = max(total - warmup, 1)
    end = peak * end_ratio
    decay = max(round(total * decay_fraction), 1)
    offset = max(warmup, 1)
    main = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=end_ratio),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "wsd": lambda: optax.linear_schedule(peak, end, decay, transition_begin=max(rest - decay, 0)),
        "constant": lambda: optax.constant_schedule(peak),
        "rsqrt": lambda: lambda step: peak * jnp.sqrt(offset / jnp.maximum(step + warmup, offset)),
    }[name]()
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), main], [warmup])
