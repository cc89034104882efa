"""The loop around the step: hooks between steps, selection, early stopping, and leaving in good order."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax.data.feed import Feed
from ptft_jax.errors import UserError
from ptft_jax.evaluation.behavior import BehaviorSet
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.evaluation.names import SOURCE
from ptft_jax.parallel import processes
from ptft_jax.parallel.compile import to_host
from ptft_jax.reporting.clock import Clock
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.checkpoint import Damaged
from ptft_jax.runs.saving import Checkpoints
from ptft_jax.runs.state import TrainState
from ptft_jax.runs.tiers import Local
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Halted, Hook, Moment
from ptft_jax.training.programs import Program
from ptft_jax.training.selection import Selection
from ptft_jax.training.termination import Terminated, Termination
from ptft_jax.training.watch import Watch

__all__ = ["SOURCE", "Loop", "NonFinite", "Schedule", "Selection"]

Pending = tuple[int, dict[str, Any], dict[str, np.ndarray]]  # a step, its metrics on devices, its batch

_REASONS = ("", "hook", "max_seconds", "sigterm")  # to stop; of several, the last


class NonFinite(UserError):
    """Training met a loss or gradient that is not finite. The batch was saved, and the last state if its own loss is finite."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When what happens, in steps; 0 = never, or only at the ends."""

    steps: int
    eval_every: int
    save_every: int
    local_every: int
    sample_every: int
    log_every: int
    answer_every: int = 0  # at evaluations whose step is a multiple, and at the ends; 0 = at all of them
    max_seconds: float = 0.0


class Loop:
    """Drives one run from its current state to its end. All parts come ready made from `ptft_jax.training.assembly`.

    What is done at a step is in `hooks`, in their order: evaluation, then samples, then the hooks of users, then saving: what a
    checkpoint of the step is behind of is done. Where the run had to leave before that, the checkpoint says so (`pending`), and
    it is done when the run continues.
    """

    def __init__(
        self,
        *,
        name: str,
        workdir: pathlib.Path,
        program: Program,
        feed: Feed,
        eval_sets: Sequence[EvalSet | BehaviorSet],
        selection: Selection,
        schedule: Schedule,
        checkpoints: Checkpoints,
        stored_params: Callable[[TrainState], dict[str, Any]],
        at_step: Callable[[Any, int], Any],
        meta: dict[str, Any],
        sample: Callable[..., list[dict[str, Any]]],
        answer: Callable[..., tuple[dict[str, float], list[dict[str, Any]]]] | None = None,
        writer: MetricsWriter,
        reporter: Reporter,
        termination: Termination,
        first_step: int,
        pending: bool,
        step_metrics: dict[str, float],
        clock: Clock,
        watch: Watch,
        local: Local | None = None,
        hooks: Sequence[Hook] = (),
    ):
        """Most arguments are attributes.

        Args:
          feed: gives the rows of each step.
          answer: gives of a state the values and the rows of the questions that it answers (`ptft_jax.evaluation.answers`).
          at_step: gives a state with the parameters of a saved step.
          first_step: what the run began with, in its first launch.
          pending: what is to be done at the step that `run` gets has not been done.
          step_metrics: of that step, where it is pending, as hooks see them.
          clock: counts what the run takes, over all its launches.
          watch: is told whenever something has moved.
          local: where steps are saved beside `checkpoints`, more often.
          hooks: those of users.
        """
        self.name, self.workdir, self.program, self.feed = name, workdir, program, feed
        self.eval_sets, self.selection, self.schedule = eval_sets, selection, schedule
        self.checkpoints, self.stored_params, self.at_step, self.meta = checkpoints, stored_params, at_step, meta
        self.sample, self.answer, self.writer, self.reporter = sample, answer, writer, reporter
        self._termination, self._first, self._pending = termination, first_step, pending
        self._step_metrics = step_metrics
        self._clock, self._watch, self._local = clock, watch, local
        self.hooks = [
            Hook(self._evaluates, self._evaluate_here),
            Hook(self._samples, self._write_samples),
            *hooks,
            Hook(self._may_save, self._save_here),
            Hook(self._saves_locally, lambda at: self._save(at.loop_state, at.step, None, to=self._local)),
        ]
        self._train_seconds: list[float] = []
        self._programs: set[Any] = set()  # that this launch has compiled
        self._agreed, self._check = processes.Agreed(), termination.checking()
        self._better = False  # the last evaluation found a new best
        self._leaves = False  # a hook asked the run to leave
        self._note = "{}"  # for people, of the last step that was logged
        self._selected: float | None = None  # the selection metric of this launch's last evaluation, where it had one
        self._task: int | None = None

    def run(self, state: Any, step: int) -> tuple[Any, str]:
        """Runs from `step` on. Returns the last state and why it ended: "steps", "early_stopping", "source_budget",
        "hook", "max_seconds" or "sigterm" (the latter three can be continued).

        Raises:
          NonFinite: see there.
          UserError: a save failed.
        """
        task = self._task = self.reporter.start(self.name, self.schedule.steps, step)
        try:
            with self._watch.watching():
                with self._clock("steps"):
                    state, reason = self._run(state, step, task)
                with self._clock("saving"):
                    self.checkpoints.wait()
            return state, reason
        finally:
            self.reporter.finish(task)

    def _run(self, state: Any, step: int, task: int | None) -> tuple[Any, str]:
        plan = self.schedule
        pending: Pending | None = None
        moment = self._moment(step, state, None)
        due = self._due(moment) if self._pending else []
        self._open_window(step)
        while True:
            if due:
                self._read(pending, state, task)
                pending = None
                if not self._carry_out(due, moment):
                    return state, "sigterm"
                self._open_window(step)
            self._watch.moved(f"step {step + 1}")
            if step >= plan.steps:
                return state, "steps"
            reason = self.selection.ended or self._interrupted()
            try:
                with self._clock("input_wait"):
                    batch = None if reason else self.feed.next(step, state)
            except Terminated as e:  # of `check_step`
                batch, reason = None, str(e)
            if batch is None:
                self._read(pending, state, task)
                self._save(state, step, None)
                return state, reason
            train = self.program.at(step)
            if train not in self._programs:
                self._cold = True
                self._programs.add(train)
                with self._clock("compile"):
                    self.program.wait()
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics = train(state, self.program.place(batch))
            step += 1
            # One step late: the device is already busy with the next step when the host looks at this one's numbers.
            self._read(pending, state, task)
            pending = (step, metrics, batch)
            moment = self._moment(step, state, metrics)
            due = self._due(moment)

    def _moment(self, step: int, state: Any, metrics: Any) -> Moment:
        return Moment(
            step,
            first=step == self._first,
            last=step == self.schedule.steps,
            evaluates=self._evaluates_at(step),
            state=state,
            program=self.program,
            metrics=lambda: dict(self._step_metrics) if metrics is None else _values(to_host(metrics)),
            writer=self.writer,
        )

    def _due(self, moment: Moment) -> list[Hook]:
        return [hook for hook in self.hooks if hook.when(moment)]

    def _carry_out(self, due: list[Hook], moment: Moment) -> bool:
        """Does what is due, in order. False where it had to be left for later. Raises Halted, once the state is saved."""
        before = self.selection.saved()
        try:
            for hook in due:
                self._watch.moved(f"evaluation, samples or saving at step {moment.step}")
                with self._clock("other"):
                    hook.do(moment)
        except (Terminated, Halted) as e:
            self.selection.restore(before)
            self._save(moment.loop_state, moment.step, None, left=moment)
            if isinstance(e, Halted):
                self.checkpoints.wait()
                raise
            return False
        self._pending, self._leaves = False, moment.leaves
        return True

    # The hooks of every run. A run that is pending has yet to do all of the step that it begins with.

    def _evaluates_at(self, step: int) -> bool:
        return step in (self._first, self.schedule.steps) or _due(step, self.schedule.eval_every)

    def _evaluates(self, moment: Moment) -> bool:
        return moment.evaluates

    def _evaluate_here(self, moment: Moment) -> None:
        moment.evaluated = self._evaluate(moment.loop_state, moment.step)
        self._better = self.selection.update(moment.step, moment.evaluated)
        self._selected = moment.evaluated.get(self.selection.metric)
        self._advance(self._task, moment.step)

    def _samples(self, moment: Moment) -> bool:
        return moment.first or (not moment.last and _due(moment.step, self.schedule.sample_every))

    def _write_samples(self, moment: Moment) -> None:
        with self._clock("samples"):
            rows = self.sample(self.program.whole(moment.loop_state), self.check)
        self.writer.sample(moment.step, *rows)

    def _may_save(self, moment: Moment) -> bool:
        return self._saves(moment) or self._evaluates(moment)  # which may find a new best

    def _saves(self, moment: Moment) -> bool:
        return moment.first or moment.last or self._pending or _due(moment.step, self.schedule.save_every)

    def _save_here(self, moment: Moment) -> None:
        better, self._better = self._better, False
        if self._saves(moment) or better or self.selection.ended:
            self._save(moment.loop_state, moment.step, moment.evaluated or None)

    def _saves_locally(self, moment: Moment) -> bool:
        return self._local is not None and not self._saves(moment) and _due(moment.step, self.schedule.local_every)

    def _interrupted(self) -> str:
        late = self.schedule.max_seconds and self._clock.launch >= self.schedule.max_seconds
        mine = "sigterm" if self._termination.asked else "max_seconds" if late else "hook" if self._leaves else ""
        return _REASONS[self._agreed(_REASONS.index(mine))]

    def check(self) -> None:
        """To be called between parts of what can be done again, equally often by all processes of a run: raises Terminated, in all of them,
        after SIGTERM of one."""
        self._watch.moved()
        self._check()

    def check_step(self) -> None:
        """For feeds that take long to make the rows of a step: raises Terminated, with the reason, where the run is to leave. All
        processes of a run have to call it equally often."""
        self._watch.moved()
        if reason := self._interrupted():
            raise Terminated(reason)

    def _read(self, pending: Pending | None, state: Any, task: int | None) -> None:
        """Reads a step's metrics from the device, logs them, and stops the run where they are not finite."""
        if pending is None:
            return
        step, metrics, batch = pending
        log = _due(step, self.schedule.log_every) or step == 1
        host = to_host(metrics if log else {"halted": metrics["halted"]})
        if host["halted"]:
            self._stop_non_finite(step, state, batch)
        if not log:
            self._advance(task, step)
            return
        values = _values(host)
        began, first = self._window
        if step > first:
            if not self._cold:
                self._train_seconds.append((time.monotonic() - began) / (step - first))
                values["step_seconds"] = self._train_seconds[-1]
                values["tokens_per_second"] = _tokens(host) / self._train_seconds[-1]
            self._open_window(step)
        with self._clock("other"):
            self.writer.write(step, "train", values)
        speed = f"  {values['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in values else ""
        shown = "reward" if "reward" in values else "loss"
        self._note = f"{shown} {values[shown]:.3f}{{}}{speed}"
        self._advance(task, step)

    def _advance(self, task: int | None, step: int) -> None:
        """Shows where the run is: its loss, the last value of the selection metric and the best."""
        shown = "" if self._selected is None else f"  {self.selection.metric} {self._selected:.3f}"
        best = f"  best {self.selection.best:.3f}@{self.selection.best_step}" if self.selection.best is not None else ""
        self.reporter.advance(task, step, self._note.format(shown + best).strip())

    def _open_window(self, step: int) -> None:
        """Time is measured from here on, over the steps after `step`; a window in which a program was compiled is not counted."""
        self._window, self._cold = (time.monotonic(), step), False

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a training step; evaluation, saving and what was compiled meanwhile are not counted. None of a
        run too short to say."""
        return float(np.median(self._train_seconds)) if self._train_seconds else None

    def _evaluate(self, state: Any, step: int) -> dict[str, float]:
        values: dict[str, float] = {}
        with self._clock("evaluation"):
            for eval_set in self.eval_sets:
                values |= eval_set.run(state, self.check)
            if self._answers(step):
                assert self.answer is not None
                found, answered = self.answer(self.program.whole(state), step, self.check)
                values |= found
                self.writer.answers(step, answered)
        self.writer.write(step, "eval", values)
        return values

    def _answers(self, step: int) -> bool:
        """Whether the evaluation at a step has questions answered."""
        if self.answer is None:
            return False
        return step in (self._first, self.schedule.steps) or step % max(self.schedule.answer_every, 1) == 0

    def _save(
        self,
        state: Any,
        step: int,
        values: dict[str, float] | None,
        left: Moment | None = None,
        to: Local | None = None,
    ) -> None:
        """`left`: what was to be done there is left for the next launch; `to`: another place than the workdir."""
        whole = self.program.whole(state)
        # Of answers of which none has a score there is no value.
        selected = None if self.selection.over_budget else (values or {}).get(self.selection.metric)
        selected = selected if selected is not None and math.isfinite(selected) else None
        seconds = self._clock.by_part
        meta = {
            **self.meta,
            "data_position": step,
            "select_metric": self.selection.metric,
            **self.selection.saved(),
            "seconds": sum(seconds.values()),
            "seconds_by": seconds,
            "metrics": values or {},
            "pending": left is not None,
            "step_metrics": {} if left is None else left.metrics,
        }
        with self._clock("saving"):
            if to is not None:
                to.save(whole, self.stored_params(whole), meta)
            else:
                self.checkpoints.save(whole, self.stored_params(whole), meta, selected)

    def _stop_non_finite(self, step: int, state: Any, batch: dict[str, np.ndarray]) -> None:
        # The step refused to change a state to one that is not finite, so `state` is the one before.
        whole = self.program.whole(state)
        state = self.program.spread(dataclasses.replace(whole, halted=jax.numpy.zeros((), bool)))
        path = Workdir(self.workdir).nonfinite(step)
        whole_batch: dict[str, Any] = processes.all_rows(batch)
        if processes.main():
            np.savez(path, **whole_batch)
        before = int(whole.step)
        if self._finite(state):
            self._save(state, before, None)
            good = f"The last good state (step {before}) is saved in {self.workdir}"
        else:
            before, good = self._last_finite(state, before)
        self.checkpoints.wait()
        go_on = (
            f", or go on from there in another workdir: --config.init.from={self.workdir}@{before} --config.init.optimizer=True "
            "with a lower optimizer.learning_rate"
            if before >= 0
            else ""
        )
        raise NonFinite(
            f"step {step}: the loss or its gradient is not finite. {good}, the offending batch in {path}. Try a lower "
            f"optimizer.learning_rate, more warmup_steps, or a smaller clip_norm{go_on}"
        )

    def _finite(self, state: Any) -> bool:
        """Whether the loss of the state's parameters, and of their average, is finite on held-out data."""
        whole, found = self.program.whole(state), self.eval_sets[0]
        forms = [state]
        if whole.ema:  # evaluated in place of the parameters themselves
            forms.append(self.program.spread(dataclasses.replace(whole, ema=whole.trainable)))
        return all(math.isfinite(found.run(form)[f"{found.name}/loss"]) for form in forms)

    def _last_finite(self, state: Any, before: int) -> tuple[int, str]:
        """The newest saved step with a finite loss, -1 without one; and what to say of it."""
        bad = f"The state before (step {before}) has a loss that is not finite either, and is no good one"
        self.checkpoints.wait()  # one may still be being written
        for step in reversed([s for s in processes.shared(self.checkpoints.steps()) if s < before]):
            try:
                if self._finite(self.at_step(state, step)):
                    return step, f"{bad}. The last good state is that of step {step}, saved in {self.workdir}"
            except Damaged:
                continue
        return -1, f"{bad}; nor is there a saved one"


def _values(host: dict[str, Any]) -> dict[str, float]:
    """The metrics of a training step as people read them: means, and the scalars. A batch may have nothing that one is a mean of."""
    means = {k: v[0] / v[1] for k, v in host.items() if isinstance(v, tuple) and v[1]}
    return means | {k: v for k, v in host.items() if not isinstance(v, tuple) and k != "halted"}


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _tokens(host: Mapping[str, Any]) -> float:
    """How many tokens with loss a step had, by its metrics: of pairs, whose loss is per pair, those of both answers."""
    counted = [pair[0] for name, pair in host.items() if name.endswith("_tokens")]
    return sum(counted) if counted else host["loss"][1]
