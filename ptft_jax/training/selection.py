"""Which state of a run is the best so far, and for how long nothing was better. The only place where that is decided."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ptft_jax.config.verifiers import UNSCORED
from ptft_jax.errors import UserError
from ptft_jax.evaluation.names import SOURCE


@dataclasses.dataclass
class Selection:
    """The best state so far, and early stopping. Lives in the checkpoint's meta.

    The best is the first of the states with the best value: an equal value later is no new best. Early stopping counts gains: a
    value is one if it is better by more than `min_delta` than the last value that was a gain, so that many small steps
    add up to one (as Keras' EarlyStopping). With `min_delta` = 0 every new best is a gain.

    Attributes:
      mode: "min" or "max".
      patience: the run ends after so many evaluations in a row without a gain; 0 = never.
      source_budget: what `SOURCE` may rise by above its value before fine-tuning, in nats, 0 = any amount. A state above it
        is not the best whatever its metric, and counts as one that gained nothing.
      stop_over_budget: the run ends at the first such state.
      source_before: the value before fine-tuning.
      best, best_step: the value and the step of the best state; None and -1 where there is none.
      counted: the last value that was a gain.
      stale: evaluations since then.
    """

    metric: str
    mode: str
    patience: int
    min_delta: float
    source_budget: float = 0.0
    stop_over_budget: bool = False
    source_before: float | None = None
    over_budget: bool = False
    best: float | None = None
    best_step: int = -1
    counted: float | None = None
    stale: int = 0

    def update(self, step: int, values: dict[str, float]) -> bool:
        """Takes in an evaluation; says whether it is the best so far. A value that is not finite never is, nor is one in which a verifier
        gave no answer a score.

        Raises:
          UserError: the metric is not among the values, or with a budget the source's is not.
        """
        if self.metric not in values and f"{self.metric}{UNSCORED}" not in values:
            raise UserError(f"config.select.metric = {self.metric!r}: evaluations give {', '.join(sorted(values))}")
        value, sign = values.get(self.metric, math.nan), 1 if self.mode == "min" else -1
        self.over_budget = self._exceeds(values)
        valid = math.isfinite(value) and not self.over_budget
        better = valid and (self.best is None or sign * value < sign * self.best)
        gained = valid and (self.counted is None or sign * (self.counted - value) > self.min_delta)
        if better:
            self.best, self.best_step = value, step
        if gained:
            self.counted = value
        self.stale = 0 if gained else self.stale + 1
        return better

    def _exceeds(self, values: dict[str, float]) -> bool:
        if not self.source_budget:
            return False
        if SOURCE not in values:
            raise UserError(
                f"config.select.source_budget = {self.source_budget!r}: no source is evaluated; evaluations give "
                f"{', '.join(sorted(values))}"
            )
        if self.source_before is None:
            self.source_before = values[SOURCE]
        # A value that is not finite is above every budget.
        return not values[SOURCE] <= self.source_before + self.source_budget

    @property
    def ended(self) -> str:
        """Why the run should end now: "early_stopping", "source_budget", or "" where it should not."""
        if self.over_budget and self.stop_over_budget:
            return "source_budget"
        return "early_stopping" if self.patience and self.stale >= self.patience else ""

    def replace_best(self, value: float | None, step: int) -> None:
        """Another state is the best, since what was it cannot be read any more; None and -1 = there is none."""
        self.best, self.best_step = value, step

    def saved(self) -> dict[str, Any]:
        """What `restore` takes, for the checkpoint's meta."""
        return {
            "best": [self.best, self.best_step, self.stale],
            "counted": self.counted,
            "source_before": self.source_before,
            "over_budget": self.over_budget,
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from where the checkpoint with this meta was."""
        self.best, self.best_step, self.stale = meta["best"]
        self.counted = meta.get("counted", self.best)  # earlier versions compared with the best
        self.source_before, self.over_budget = meta.get("source_before"), meta.get("over_budget", False)
