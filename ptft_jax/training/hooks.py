"""Hooks: what is done between the steps of a run, and when. Evaluation, samples and saving are hooks, and so is what users add.

pt.train(config, "runs/x", hooks=[(pt.every(100), lambda at: print(at.step, at.metrics["loss"]))])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.runs.state import TrainState

if TYPE_CHECKING:
    from ptft_jax.training.programs import Program

KIND = "hook"  # of the rows that hooks write


class Moment:
    """The run between two steps, as hooks see it.

    Attributes:
      step: the updates that are done, which is the number of the last one.
      first: nothing has been trained yet.
      last: these are all that `training.steps` asks for.
      evaluates: the run evaluates at this step.
      evaluated: {"validation/nll": nats per token, ...} where the run has evaluated at this step, else {}. For `do`: `when` is
        asked before that.
    """

    def __init__(
        self,
        step: int,
        *,
        first: bool,
        last: bool,
        evaluates: bool = False,
        state: Any = None,
        program: Program | None = None,
        metrics: Callable[[], dict[str, float]] = dict,
        writer: MetricsWriter | None = None,
    ):
        """`state`, of the form of the loop's, and `metrics` are read when they are asked for. Without `program` and `writer` there is
        neither a state to read nor a file to write to."""
        self.step, self.first, self.last, self.evaluates = step, first, last, evaluates
        self.evaluated: dict[str, float] = {}
        self.leaves = False
        self.loop_state, self._program, self._metrics, self._writer = state, program, metrics, writer

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """{"loss": ..., "grad_norm": ..., "learning_rate": ...} of the last step; {} where this launch has made none yet. A step that has
        nothing to learn has no "loss", such as one of whose answers none is kept."""
        return self._metrics()

    @property
    def state(self) -> TrainState:
        """The whole state: its arrays are the run's own and are given up at the next step, so copy what is to be kept."""
        assert self._program is not None, "the loop gives it"
        return jax.tree.map(lambda leaf: leaf, self._program.whole(self.loop_state))

    @property
    def params(self) -> dict[str, Any]:
        """All parameters as nested dicts, the trainable and the frozen ones, as for `state`."""
        state = self.state
        return unflatten({**flatten(state.frozen), **flatten(state.trainable)})

    def leave(self) -> None:
        """Asks the run to save and leave after what is due at this step, as `max_seconds` does: its summary says "hook", and the same call
        goes on from there. Where several processes share a run, all have to ask."""
        self.leaves = True

    def write(self, values: Mapping[str, Any]) -> None:
        """Writes {name: number} as a row of kind "hook" into metrics.jsonl, and to the trackers as hook/NAME. Arrays of a single
        number are read. Where several processes share a run, one writes. Raises UserError for a name that every row has: "step",
        "kind" and "time"."""
        assert self._writer is not None, "the loop gives it"
        if own := [name for name in values if name in ("step", "kind", "time")]:
            raise UserError(f"a hook writes {own[0]!r}: every row has that of its own; choose another name")
        self._writer.write(self.step, KIND, {name: float(np.asarray(value)) for name, value in values.items()})


class Halted(UserError):
    """What a hook of the run's own raises to end it where it is: the state is saved, and what is left to do at the step, this hook too, is done by
    the launch that goes on."""


class Hook(NamedTuple):
    """What is done, and when.

    Attributes:
      when: is asked once after each step, and before the first one. It has to be quick, and where several processes share a run
        it has to answer the same in all of them.
      do: is called after evaluation and samples of that step, and before it is saved. Where a run continues, it is not called
        again for a step that the checkpoint is behind of. What it raises ends the run.
    """

    when: Callable[[Moment], bool]
    do: Callable[[Moment], None]


def every(steps: int) -> Callable[[Moment], bool]:
    """A `when` of a hook: after each step whose number is a multiple of `steps`.

    Args:
      steps: a number of steps, 1 or more.

    Raises:
      UserError: anything else.
    """
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"every({steps!r}): expected a number of steps, 1 or more")
    return lambda moment: not moment.first and moment.step % steps == 0


def checked(hooks: Sequence[Any]) -> list[Hook]:
    """What users give as hooks. Raises UserError for what is no pair of functions."""
    if not isinstance(hooks, Sequence):
        raise UserError(f"hooks = {hooks!r}: expected a list of pairs (when, do)")
    for number, hook in enumerate(hooks):
        if not (isinstance(hook, tuple) and len(hook) == 2 and all(map(callable, hook))):
            raise UserError(
                f"hooks[{number}] = {hook!r}: expected a pair of functions (when, do), e.g. (every(100), print)"
            )
    return [_named(number, Hook(*hook)) for number, hook in enumerate(hooks)]


def _named(number: int, hook: Hook) -> Hook:
    """The hook, with its number and the step added to what it raises."""

    def do(moment: Moment) -> None:
        try:
            hook.do(moment)
        except Exception as e:
            e.add_note(f"in hooks[{number}] ({getattr(hook.do, '__qualname__', hook.do)}), after step {moment.step}")
            raise

    return Hook(hook.when, do)
