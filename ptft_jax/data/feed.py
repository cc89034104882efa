"""Where a run's training batches come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ptft_jax.data.rows import Rows


class Feed(Protocol):
    """Gives the rows of each training step.

    Nothing of a feed is in a checkpoint. So that a run which continues is the same, what it gives is a function of the config,
    the step and the state alone: the same rows whatever it was asked before, and in whichever order; or it is read from what the feed
    has kept of an earlier step (`ptft_jax.training.rollouts`).
    """

    def next(self, step: int, state: Any) -> Rows:
        """This process' rows of the update that follows `step` updates.

        Args:
          state: the run's before that update, in the form that the program has it (`ptft_jax.parallel.compile`). It is to be read
            before this returns: the update takes its memory. A feed that does not need it must not look at it, which would
            wait for the update before. When the run has ended, it is asked for the last rows again, of which only the form is used.
        """


class Indexed:
    """Data by step number, made ahead while steps follow one another; the state is not looked at."""

    def __init__(self, batches: Callable[[int], Iterator[Rows]]):
        """`batches`: gives the rows of a step and those after it (`ptft_jax.data.batches.training`)."""
        self._batches, self._following = batches, -1
        self._ahead: Iterator[Rows] = iter(())

    def next(self, step: int, state: Any) -> Rows:
        """As `Feed.next`."""
        if step != self._following:
            self._ahead = iter(self._batches(step))
        self._following = step + 1
        return next(self._ahead)
