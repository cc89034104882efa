"""A trace of some training steps for XProf and Perfetto, recorded by hooks."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence

import jax

from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Hook, Moment


def steps_of(text: str, steps: int) -> tuple[int, int]:
    """(START, STOP) of "START:STOP". Raises UserError for what are no steps of a run of so many `steps`."""
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text, re.ASCII)
    if not found:
        raise UserError(f"--profile={text}: expected START:STOP, e.g. --profile=10:20 for the steps 11 to 20")
    start, stop = map(int, found.groups())
    if not start < stop <= steps:
        wrong = f"STOP at most config.training.steps = {steps}" if start < stop else "START below STOP"
        raise UserError(f"--profile={text}: expected {wrong}")
    return start, stop


class Trace:
    """Records the steps after `start` up to `stop` into WORKDIR/profile: all between two moments at which the devices have
    nothing to do. Of a launch that begins after `start`, from its first step on.

    A context around the loop, which ends what is being recorded.
    """

    def __init__(self, start: int, stop: int, workdir: pathlib.Path, say: Callable[[str], None]):
        self._start, self._stop, self._folder, self._say = start, stop, Workdir(workdir).profile, say
        self._first, self._last = -1, -1  # the steps that are recorded, from the first on; -1 = none yet
        self._recording = False

    def around(self, hooks: Sequence[Hook]) -> list[Hook]:
        """The hooks, and before and after them those that end and begin the trace, so that what they do there is not in it."""
        return [Hook(self._ends, self._end), *hooks, Hook(self._begins, self._begin)]

    def _begins(self, moment: Moment) -> bool:
        return self._first < 0 and self._start <= moment.step < self._stop

    def _begin(self, moment: Moment) -> None:
        jax.block_until_ready(moment.loop_state)
        if processes.main():
            # Python's own calls, which are so many that they hide the rest and take time from it, are left out.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            try:
                jax.profiler.start_trace(str(self._folder), profiler_options=options)
            except RuntimeError as e:  # one at a time
                raise UserError(f"--profile: {e}") from e
        self._first, self._recording = moment.step + 1, True

    def _ends(self, moment: Moment) -> bool:
        self._last = moment.step
        return self._recording and moment.step == self._stop

    def _end(self, moment: Moment) -> None:
        jax.block_until_ready(moment.loop_state)
        self._stop_recording()

    def _stop_recording(self) -> None:
        self._recording = False
        if processes.main():
            jax.profiler.stop_trace()
        self._say(f"{self._folder}: a trace of the steps {self._first} to {self._last}, for XProf and Perfetto")

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._recording:
            self._stop_recording()
        elif self._first < 0 and kind is None:
            self._say(f"no trace: this launch made none of the steps {self._start + 1} to {self._stop} (--profile)")
