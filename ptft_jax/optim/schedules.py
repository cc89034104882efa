"""Learning rates by step: a linear warm-up, then one of five shapes composed from Optax's schedules; or a slanted triangle."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from ptft_jax.config.spans import steps_of, text
from ptft_jax.errors import UserError
from ptft_jax.optim.options import OptimizerOptions

SCHEDULES = ("cosine", "linear", "wsd", "constant", "rsqrt", "slanted_triangular")


def from_config(config: OptimizerOptions, steps: int, default: float = 0.0) -> optax.Schedule:
    """The schedule of `config.optimizer` over a run of `steps`, with `default` as its highest rate where none is given;
    reads only the fields that its shape uses.

    Raises:
      UserError: a rise of wsd or slanted_triangular that leaves no update with a lower rate than the highest.
    """
    peak = config.learning_rate or default
    if config.schedule == "slanted_triangular":
        cut = int(steps * config.cut_frac)
        if cut > 1 and steps - cut < 2:
            raise UserError(
                f"config.optimizer.cut_frac = {config.cut_frac!r}: the rate would rise over {cut} of training.steps = {steps} updates "
                "and never come down; lower it"
            )
        return slanted_triangular(peak, max(steps, 1), config.cut_frac, config.ratio)
    warmup = steps_of(config.warmup_steps, steps)
    if config.schedule == "wsd" and warmup and steps - warmup < 2:
        most = max(steps - 2, 0)
        raise UserError(
            f"config.optimizer.warmup_steps = {text(config.warmup_steps)}: of training.steps = {steps} it leaves no update in which "
            f"optimizer.schedule='wsd' comes down; at most {most}, or schedule='constant'"
        )
    options: dict[str, float] = {}
    if config.schedule in ("cosine", "linear", "wsd"):
        options["end_ratio"] = config.end_ratio
    if config.schedule == "wsd":
        options["decay_fraction"] = config.decay_fraction
    return build(config.schedule, peak, warmup=warmup, total=max(steps, 1), **options)


def build(
    name: str, peak: float, *, warmup: int, total: int, end_ratio: float = 0.0, decay_fraction: float = 0.2
) -> optax.Schedule:
    """The schedule `step -> learning rate`; step counts optimizer updates from 0.

    Args:
      name: "cosine", "linear": from `peak` to `peak * end_ratio` at `total`. "wsd": `peak`, then linearly down over
        the last `decay_fraction` of all steps (Hu et al. 2024, "MiniCPM", section 4), but no sooner than after the warm-up,
        and over no less than two, or its first lower rate would be that of no update. "constant": `peak`.
        "rsqrt": peak * sqrt(w / step) with w = max(warmup, 1) (Raffel et al. 2020, section 3.1.2).
      peak: the highest rate.
      warmup: steps of linear rise; the first step already has peak / (warmup + 1).
      total: steps of the whole run, at least 1.

    Raises:
      KeyError: an unknown name (the config checks names first).
    """
    rest = max(total - warmup, 1)
    end = peak * end_ratio
    decay = min(max(round(total * decay_fraction), 2), rest)
    offset = max(warmup, 1)
    main = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=end_ratio),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "wsd": lambda: optax.linear_schedule(peak, end, decay, transition_begin=rest - decay),
        "constant": lambda: optax.constant_schedule(peak),
        "rsqrt": lambda: lambda step: peak * jnp.sqrt(offset / jnp.maximum(step + warmup, offset)),
    }[name]()
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), main], [warmup])


def slanted_triangular(peak: float, total: int, cut_frac: float = 0.1, ratio: float = 32.0) -> optax.Schedule:
    """From peak / ratio linearly to `peak` within the share `cut_frac` of all steps, and linearly back to peak / ratio
    (Howard & Ruder 2018, equation 3, with t = step).

    Their cut is rounded down to whole steps, which in short runs would take the rate below peak / ratio, and even below 0,
    in the last steps: it stays at peak / ratio there.
    """
    cut = max(int(total * cut_frac), 1)

    def rate(step):
        falling = 1 - (step - cut) / (cut * (1 / cut_frac - 1))
        part = jnp.clip(jnp.where(step < cut, step / cut, falling), 0.0, 1.0)
        return peak * (1 + part * (ratio - 1)) / ratio

    return rate
