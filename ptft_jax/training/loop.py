"""The loop around the step: evaluation, selection, early stopping, saving, and leaving in good order."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.parallel import processes
from ptft_jax.parallel.compile import to_host
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training.checkpoint import Checkpoints
from ptft_jax.training.state import TrainState

SOURCE = "source/nll"  # what the parent knew, in nats a token
_REASONS = ("", "max_seconds", "sigterm")  # to stop; of several, the last


class NonFinite(UserError):
    """Training met a loss or gradient that is not a number. The last good state and the batch were saved."""


@dataclasses.dataclass
class Selection:
    """What is the best state so far, and for how long nothing was better. Lives in the checkpoint's meta.

    Attributes:
      source_budget: what `SOURCE` may rise by above its value before fine-tuning, in nats, 0 = any amount. A state above it
        is not the best whatever its metric, and counts as one that gained nothing.
      stop_over_budget: the run ends at the first such state.
      source_before: the value before fine-tuning.
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
    stale: int = 0

    def update(self, step: int, values: dict[str, float]) -> bool:
        """Takes in an evaluation; says whether it is the best so far. A NaN never is.

        Raises:
          UserError: the metric is not among the values, or with a budget the source's is not.
        """
        if self.metric not in values:
            raise UserError(f"config.select.metric = {self.metric!r}: evaluations give {', '.join(sorted(values))}")
        value = values[self.metric]
        sign = 1 if self.mode == "min" else -1
        self.over_budget = self._exceeds(values)
        better = (
            math.isfinite(value) and not self.over_budget and (self.best is None or sign * value < sign * self.best)
        )
        # A gain below min_delta is still kept as the best, but does not reset patience.
        gained = better and (self.best is None or sign * (self.best - value) > self.min_delta)
        if better:
            self.best, self.best_step = value, step
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
        # A value that is no number is above every budget.
        return not values[SOURCE] <= self.source_before + self.source_budget

    @property
    def ended(self) -> str:
        """Why the run should end now: "early_stopping", "source_budget", or "" where it should not."""
        if self.over_budget and self.stop_over_budget:
            return "source_budget"
        return "early_stopping" if self.patience and self.stale >= self.patience else ""

    def saved(self) -> dict[str, Any]:
        """What `restore` takes, for the checkpoint's meta."""
        return {
            "best": [self.best, self.best_step, self.stale],
            "source_before": self.source_before,
            "over_budget": self.over_budget,
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from where the checkpoint with this meta was."""
        self.best, self.best_step, self.stale = meta["best"]
        self.source_before, self.over_budget = meta.get("source_before"), meta.get("over_budget", False)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When what happens, in steps; 0 = never, or only at the ends."""

    steps: int
    eval_every: int
    save_every: int
    sample_every: int
    log_every: int
    max_seconds: float = 0.0


class Loop:
    """Drives one run from its current state to its end. All parts come ready made from `ptft_jax.run`."""

    def __init__(
        self,
        *,
        name: str,
        workdir: pathlib.Path,
        program: Any,
        batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
        eval_sets: list[EvalSet],
        selection: Selection,
        schedule: Schedule,
        checkpoints: Checkpoints,
        stored_params: Callable[[TrainState], dict],
        meta: dict[str, Any],
        sample: Callable[[TrainState], list[dict]],
        learning_rate: Callable[[int], Any],
        writer: MetricsWriter,
        reporter: Reporter,
        seconds_before: float = 0.0,
    ):
        self.name, self.workdir, self.program, self.batches = name, workdir, program, batches
        self.eval_sets, self.selection, self.schedule = eval_sets, selection, schedule
        self.checkpoints, self.stored_params, self.meta = checkpoints, stored_params, meta
        self.sample, self.learning_rate = sample, learning_rate
        self.writer, self.reporter = writer, reporter
        self._seconds_before, self._started = seconds_before, time.monotonic()
        self._train_seconds: list[float] = []
        self._programs: set[Any] = set()  # that this launch has compiled
        self._terminated, self._agreed = threading.Event(), processes.Agreed()

    @property
    def seconds(self) -> float:
        """Wall time of the run over all its launches."""
        return self._seconds_before + time.monotonic() - self._started

    def run(self, state: Any, step: int) -> tuple[Any, str]:
        """Runs from `step` on. Returns the last state and why it ended: "steps", "early_stopping", "source_budget",
        "max_seconds" or "sigterm" (the latter two can be continued).

        Raises:
          NonFinite: see there.
          UserError: a save failed.
        """
        handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.signal(signal.SIGTERM, lambda *_: self._terminated.set())
        task = self.reporter.start(self.name, self.schedule.steps, step)
        try:
            state, reason = self._run(state, step, task)
            self.checkpoints.wait()
            return state, reason
        finally:
            self.reporter.finish(task)
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)

    def _run(self, state: Any, step: int, task: int | None) -> tuple[Any, str]:
        plan = self.schedule
        if step == 0:
            self._evaluate(state, 0)
            self._write_samples(state, 0)
        elif self.selection.ended:
            return state, self.selection.ended
        batches = iter(self.batches(step)) if step < plan.steps else iter(())
        pending: tuple[int, Any, dict] | None = None
        self._open_window(step)
        while step < plan.steps:
            reason = self._interrupted()
            if reason:
                self._read(pending, state, task)
                self._save(state, step, None)
                return state, reason
            batch = next(batches)
            train = self.program.at(step)
            self._cold |= train not in self._programs
            self._programs.add(train)
            state, metrics = train(state, self.program.place(batch))
            step += 1
            # One step late: the device is already busy with the next step when the host looks at this one's numbers.
            self._read(pending, state, task)
            pending = (step, metrics, batch)
            last = step == plan.steps
            if last or _due(step, plan.eval_every):
                self._read(pending, state, task)
                pending = None
                self._evaluate(state, step)
                self._open_window(step)
                if self.selection.ended and not last:
                    self._save(state, step, None)
                    return state, self.selection.ended
            elif _due(step, plan.save_every):
                self._read(pending, state, task)
                pending = None
                self._save(state, step, None)
            if not last and _due(step, plan.sample_every):
                self._write_samples(state, step)
        return state, "steps"

    def _interrupted(self) -> str:
        late = self.schedule.max_seconds and time.monotonic() - self._started >= self.schedule.max_seconds
        mine = "sigterm" if self._terminated.is_set() else "max_seconds" if late else ""
        return _REASONS[self._agreed(_REASONS.index(mine))]

    def _read(self, pending: tuple[int, Any, dict] | None, state: Any, task: int | None) -> None:
        """Reads a step's metrics from the device, logs them, and stops the run where they are no numbers."""
        if pending is None:
            return
        step, metrics, batch = pending
        log = _due(step, self.schedule.log_every) or step == 1
        host = to_host(metrics if log else {"halted": metrics["halted"]})
        if host["halted"]:
            self._stop_non_finite(step, state, batch)
        if not log:
            return
        values = {k: v[0] / v[1] for k, v in host.items() if isinstance(v, tuple)}
        values |= {"grad_norm": host["grad_norm"], "learning_rate": float(self.learning_rate(step - 1))}
        began, first = self._window
        if step > first:
            if not self._cold:
                self._train_seconds.append((time.monotonic() - began) / (step - first))
                values["step_seconds"] = self._train_seconds[-1]
                values["tokens_per_second"] = host["loss"][1] / self._train_seconds[-1]
            self._open_window(step)
        self.writer.write(step, "train", values)
        speed = f"  {values['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in values else ""
        best = f"  best {self.selection.best:.3f}@{self.selection.best_step}" if self.selection.best is not None else ""
        self.reporter.advance(task, step, f"loss {values['loss']:.3f}{best}{speed}")

    def _open_window(self, step: int) -> None:
        """Time is measured from here on, over the steps after `step`; a window in which a program was compiled is not counted."""
        self._window, self._cold = (time.monotonic(), step), False

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a training step; evaluation, saving and what was compiled meanwhile are not counted. None of a
        run too short to say."""
        return float(np.median(self._train_seconds)) if self._train_seconds else None

    def _evaluate(self, state: Any, step: int) -> None:
        values: dict[str, float] = {}
        for eval_set in self.eval_sets:
            values |= eval_set.run(state)
        self.writer.write(step, "eval", values)
        better = self.selection.update(step, values)
        if better or step in (0, self.schedule.steps) or _due(step, self.schedule.save_every):
            self._save(state, step, values)

    def _save(self, state: Any, step: int, values: dict[str, float] | None) -> None:
        whole = self.program.whole(state)
        known = values is not None and not self.selection.over_budget
        selected = values[self.selection.metric] if known else None
        selected = selected if selected is not None and math.isfinite(selected) else None
        meta = {
            **self.meta,
            "data_position": step,
            "selected": selected,
            "select_metric": self.selection.metric,
            "select_mode": self.selection.mode,
            **self.selection.saved(),
            "seconds": self.seconds,
            "metrics": values or {},
        }
        self.checkpoints.save(whole, self.stored_params(whole), meta, selected)

    def _write_samples(self, state: Any, step: int) -> None:
        for row in self.sample(self.program.whole(state)):
            self.writer.sample(step, row)

    def _stop_non_finite(self, step: int, state: Any, batch: dict[str, np.ndarray]) -> None:
        # The step refused to change a state with non-finite numbers, so `state` is the last good one.
        whole = self.program.whole(state)
        good = dataclasses.replace(whole, halted=jax.numpy.zeros((), bool))
        saved = int(whole.step)
        self._save(self.program.spread(good), saved, None)
        self.checkpoints.wait()
        path = self.workdir / f"nonfinite_step_{step}.npz"
        whole_batch = processes.all_rows(batch)
        if processes.main():
            np.savez(path, **whole_batch)
        raise NonFinite(
            f"step {step}: the loss or its gradient is not finite. The last good state (step {saved}) is saved in "
            f"{self.workdir}, the offending batch in {path}. Try a lower optimizer.learning_rate, more warmup_steps, or "
            "a smaller clip_norm"
        )


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
