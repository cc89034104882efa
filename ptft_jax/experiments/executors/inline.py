"""Nodes one after the other, in this process."""

from __future__ import annotations

import pathlib

from ptft_jax.experiments import work
from ptft_jax.experiments.executors.base import Outcome, Task


class Inline:
    """Implements `ptft_jax.experiments.executors.base.Executor`."""

    slots = 1
    here = True

    def __init__(self) -> None:
        self._ended: list[tuple[str, Outcome]] = []

    def start(self, task: Task) -> None:
        with work.logged(pathlib.Path(task.log)):
            self._ended.append((task.name, work.carry_out(task)))

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        return self._ended.pop(0) if self._ended else None

    def stop(self) -> None:
        """Nothing goes on beside the process that asks."""

    def close(self) -> None:
        """Nothing is held."""
