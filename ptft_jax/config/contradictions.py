"""Settings that contradict one another, or do nothing beside one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ptft_jax.config import spans
from ptft_jax.config.defaults import get
from ptft_jax.errors import UserError
from ptft_jax.model import spec, tower_settings

if TYPE_CHECKING:
    from ptft_jax.config.section import Section


def check_effects(config: Section, *, late: bool = False) -> Section:
    """The config of a run that is to be carried out. Of runs that are there already nothing is asked.

    Args:
      late: its `training.steps` are those that `training.epochs` make.

    Raises:
      UserError: for settings that are valid, and would do nothing beside others: what `Section.refuse_unread` cannot tell, as they
        are read.
    """
    c = config.as_dict()
    o, steps = c["optimizer"], c["training"]["steps"]
    rows = list(idle(c))
    known, warmup = late or not c["training"]["epochs"], spans.steps_of(o["warmup_steps"], steps)
    if known and falls(o["schedule"], steps) and warmup and warmup >= steps:
        rows.insert(0, ("optimizer.warmup_steps", f"steps that are left for the decay of optimizer.schedule = {o['schedule']!r}: less than training.steps {steps!r}"))  # fmt: skip
    for path, expected in rows:
        raise UserError(f"config.{path} = {spans.text(get(c, path))}: expected {expected}")
    return config


def check_together(c: dict[str, Any]) -> None:
    """Contradictions between fields, each message naming both."""
    m, d, t = c["model"], c["data"], c["training"]
    rows = [
        (m["image_size"] or d["length"] <= m["max_length"], "data.length", d["length"], "at most model.max_length", m["max_length"]),
        (d["batch_size"] % t["micro_batches"] == 0, "data.batch_size", d["batch_size"], "a multiple of training.micro_batches", t["micro_batches"]),
        *([] if t["epochs"] else of_steps(c)),
        *((c["parallel"]["compile"] == "jit" or c["parallel"][axis] == 1, "parallel.compile", "pmap", f"parallel.{axis}=1 (pmap copies the state), not", c["parallel"][axis]) for axis in ("fsdp", "expert", "context", "tensor")),
    ]  # fmt: skip
    refuse(rows)
    for name, value, expected in [*spec.contradictions(m), *tower_settings.contradictions(m)]:
        raise UserError(f"config.model.{name} = {value!r}: expected {expected}")


def of_steps(c: Mapping[str, Any]) -> list[tuple[bool, str, Any, str, Any]]:
    """Contradictions of `training.steps` with other fields."""
    warmup, steps = c["optimizer"]["warmup_steps"], c["training"]["steps"]
    fits = spans.steps_of(warmup, steps) <= max(steps, 1)
    return [(fits, "optimizer.warmup_steps", warmup, "at most training.steps", steps)]


def refuse(rows: Iterable[tuple[bool, str, Any, str, Any]]) -> None:
    """Raises UserError for the first row that is not good: (good, path, value, what is expected, what that counts from)."""
    for good, path, value, expected, other in rows:
        if not good:
            raise UserError(f"config.{path} = {spans.text(value)}: expected {expected} {other!r}")


def fits_steps(schedule: str, warmup: float, steps: int) -> bool:
    """Whether a warm-up leaves steps for what the schedule does after it."""
    warmup = spans.steps_of(warmup, steps)
    decay = 2 if schedule == "wsd" else 1 if falls(schedule, steps) else 0
    return not warmup or warmup + decay <= max(steps, 1)


def falls(schedule: str, steps: int) -> bool:
    """Whether the rate falls after the warm-up."""
    # A run of one or two updates, to see that all works, has no shape of its rate.
    return schedule in ("cosine", "linear", "wsd", "rsqrt") and steps > 2


def idle(c: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of `config.select` that are read, but have no effect beside others: (path, what is expected)."""
    s, nothing = c["select"], "where eval.every is 0: nothing is evaluated between start and end"
    if not c["eval"]["every"] and s["patience"]:
        yield "select.patience", f"0 {nothing}"
    if not c["eval"]["every"] and s["stop_over_budget"]:
        yield "select.stop_over_budget", f"False {nothing}"
    if not s["patience"] and s["min_delta"]:
        yield "select.min_delta", "0 where select.patience is 0: it says what counts as a gain for patience alone"
