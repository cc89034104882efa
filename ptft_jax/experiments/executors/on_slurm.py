"""Nodes as jobs of SLURM, through submitit."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError, listed
from ptft_jax.experiments.executors import elsewhere
from ptft_jax.experiments.executors.base import Outcome, Task

_LOOK = 1.0  # seconds between two looks at jobs
# Seconds within which SLURM ends a job whose processes it has asked to leave. It puts such a job back into the queue: a result that was
# written meanwhile would be taken for the job's, and another be submitted beside it.
_HOLD = 120.0


class Job:
    """What submitit pickles: a node, which is begun again where it was when the scheduler takes its machine away."""

    def __call__(self, task: Mapping[str, Any], asked_by: Mapping[str, Any]) -> dict[str, Any]:
        return elsewhere.carry_out(task, asked_by, hold=_HOLD)

    def checkpoint(self, task: Mapping[str, Any], asked_by: Mapping[str, Any]) -> Any:
        """Called when the job runs out of time or is preempted: the same task, to be put back into the queue. What called it exits then, which
        `elsewhere.carry_out` lets happen when the task has saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task, asked_by)


class OnSlurm:
    """Implements `ptft_jax.experiments.executors.base.Executor`. All machines need the same versions and one file system."""

    here = False

    def __init__(self, slots: int = 1, folder: str | pathlib.Path = "slurm", cluster: str = "slurm", **parameters: Any):
        """
        Args:
          slots: jobs at a time, those that wait in the queue among them.
          folder: where submitit keeps the files of jobs.
          cluster: "slurm", or "local": processes on this machine in its place.
          parameters: of jobs, by submitit's names: timeout_min, slurm_partition, gpus_per_node, cpus_per_task, mem_gb, ...

        Raises:
          UserError: submitit or SLURM is not installed, or it does not know a parameter.
        """
        try:
            import submitit
        except ImportError as e:
            raise UserError(f"--executor=slurm needs the package submitit: pip install 'ptft_jax[slurm]' ({e})") from e
        self._submitit, self.slots = submitit, slots
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, NameError, ValueError, TypeError) as e:
            raise UserError(f"--executor=slurm: {e}") from e
        self._jobs: dict[str, Any] = {}
        self._stopped = False
        self._asked = elsewhere.described()

    def start(self, task: Task) -> None:
        try:
            self._jobs[task.name] = self._executor.submit(Job(), dataclasses.asdict(task), self._asked)
        except self._submitit.core.utils.FailedJobError as e:
            raise UserError(f"--executor=slurm: the job of {task.name} is refused:{listed(str(e).splitlines())}") from e

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        deadline = time.monotonic() + timeout
        while True:
            for name, job in self._jobs.items():
                if job.done():
                    del self._jobs[name]
                    return name, self._outcome(job)
            if (left := deadline - time.monotonic()) <= 0 or not self._jobs:
                return None
            time.sleep(min(_LOOK, left))

    def _outcome(self, job: Any) -> Outcome:
        try:
            return Outcome(**job.result())
        except Exception as e:  # whatever ended the job: submitit's errors, and those of what it ran
            if self._stopped:
                return Outcome("interrupted", "its job was cancelled")
            lines = [line for line in str(e).splitlines() if line.strip()]
            short = "OUT_OF_MEMORY" in str(getattr(job, "state", ""))
            return Outcome("out_of_memory" if short else "killed", f"job {job.job_id}: {lines[0] if lines else e}")

    def stop(self) -> None:
        self._stopped = True
        for job in self._jobs.values():
            job.cancel(check=False)

    def close(self) -> None:
        self.stop()
