"""Who does the work on chunks of records: processes of this machine, or Apache Beam wherever its runner has workers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ptft_jax.data import processes
from ptft_jax.data.prepare.chunks import Task, work
from ptft_jax.errors import UserError, nearest


class Engine(Protocol):
    def run(self, plan: str, tasks: Sequence[Task]) -> Iterator[Task]:
        """Does `chunks.work(plan, task)` for each task. Yields tasks in their order, each when its file is there."""
        ...


@dataclasses.dataclass(frozen=True)
class Processes:
    """Processes of this machine; one, or a single task, is this process itself.

    Attributes:
      workers: how many; 0 = as many as there are processors.
    """

    workers: int = 0

    def run(self, plan: str, tasks: Sequence[Task]) -> Iterator[Task]:
        count = min(self.workers or os.cpu_count() or 1, len(tasks))
        if count <= 1:
            for task in tasks:
                work(plan, task)
                yield task
            return
        done = processes.mapped(work, itertools.repeat(plan), tasks, count=count, setting="--workers")
        with contextlib.closing(done):
            for task, _ in zip(tasks, done):
                yield task


@dataclasses.dataclass(frozen=True)
class Beam:
    """Apache Beam. Its workers need this package, the sources, and the folder of the tasks' files.

    Attributes:
      runner: any runner of Beam's; "DirectRunner" is this machine.
      options: NAME=VALUE of the runner's pipeline options.
      workers: for the direct runner, its processes; 0 or 1 = this process.
    """

    runner: str = "DirectRunner"
    options: tuple[str, ...] = ()
    workers: int = 0

    def run(self, plan: str, tasks: Sequence[Task]) -> Iterator[Task]:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as e:
            raise UserError(f"--engine=beam needs Apache Beam: pip install 'ptft_jax[beam]' ({e})") from e
        flags = [f"--{option}" for option in self.options]
        if self.workers > 1 and self.runner == "DirectRunner":
            flags += [f"--direct_num_workers={self.workers}", "--direct_running_mode=multi_processing"]
        options = _options(PipelineOptions, flags, self.runner)
        try:
            pipeline = beam.Pipeline(options=options)
        except ValueError as e:
            raise UserError(f"--beam_runner={self.runner}: {e}") from e
        with pipeline:
            chunks = pipeline | "tasks" >> beam.Create(list(tasks)) | "spread" >> beam.Reshuffle()
            _ = chunks | "work" >> beam.Map(lambda task: work(plan, task))
        yield from tasks


def _options(kind: Any, flags: list[str], runner: str) -> Any:
    """Beam's options of these flags. Raises UserError for those that Beam would pass over, and where it would exit."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = kind(flags=flags, runner=runner)
            known, given = options.get_all_options(), options.get_all_options(retain_unknown_options=True)
    except SystemExit:
        raise UserError(f"--beam_option: {said.getvalue().strip().splitlines()[-1]}") from None
    for name in sorted(set(given) - set(known)):
        raise UserError(f"--beam_option={name}: Beam has no such option{nearest(name, known)}")
    return options
