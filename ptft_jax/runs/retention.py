"""Which checkpoints of a run stay on disk. One rule, over any number of launches: it looks only at what checkpoints record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Saved(NamedTuple):
    """What retention knows of a checkpoint.

    Attributes:
      step: of the checkpoint.
      selected: the value of the metric that ranks checkpoints; None where it was not measured, not finite, or over a budget.
      best_step: the step that was the best when it was saved; -1 = none.
    """

    step: int
    selected: float | None
    best_step: int


def ranked(saved: Sequence[Saved], mode: str) -> list[Saved]:
    """The checkpoints with a value, best first. Of equal values the earlier comes first: only a better value is a new best.

    Args:
      mode: "min" or "max".
    """
    sign = 1 if mode == "min" else -1
    valued = [(sign * s.selected, s.step, s) for s in saved if s.selected is not None]
    return [s for _, _, s in sorted(valued, key=lambda entry: entry[:2])]


def kept(saved: Sequence[Saved], mode: str, *, latest: int, best: int, pinned: Collection[int] = ()) -> set[int]:
    """The steps that stay: the `latest` newest, the `best` best, what the newest record as their best, and the `pinned`.

    So a run that goes on from any of the newest finds the best step that this one records. With `best` >= 1 no more than
    `latest` + `best` stay: what was the best before the newest is a single step.
    """
    newest = sorted(saved, key=lambda s: s.step)[-latest:]
    steps = {s.step for s in newest} | {s.step for s in ranked(saved, mode)[:best]} | {s.best_step for s in newest}
    return (steps | set(pinned)) & {s.step for s in saved}
