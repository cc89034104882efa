"""Where jobs run, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ptft_jax.jobs.failures import Failed
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.shell import Shell


class Place(Protocol):
    """What drives a job. Its tool is installed."""

    def show(self) -> None:
        """Prints every command and file; the shell is dry."""

    def make(self) -> None:
        """Makes the files that the job is given. Raises `ptft_jax.jobs.failures.Failed`."""

    def drive(self) -> int:
        """Goes on from where the job is, to its end; exit status. Raises `ptft_jax.jobs.failures.Failed`."""

    def delete(self) -> None:
        """Ends the job, and what it costs. Raises `ptft_jax.jobs.failures.Failed`."""


def place(job: Job, shell: Shell, pause: Callable[[], None]) -> Place:
    """What drives a job. Raises UserError where its tool is not installed."""
    if job.request.on == "tpu":
        from ptft_jax.jobs.tpu import CloudTPU

        return CloudTPU(job, shell, pause)
    if job.request.on == "gke":
        from ptft_jax.jobs.gke import GKE

        return GKE(job, shell, pause)
    if job.request.on == "vertex":
        from ptft_jax.jobs.vertex import Vertex

        return Vertex(job, shell, pause)
    from ptft_jax.jobs.slurm import Slurm

    return Slurm(job, shell, pause)


def carried(job: Job, place: Place, make: bool = False) -> tuple[int, str]:
    """Drives a job to its end, and records that: exit status, and why it came to nothing, "" where its command ended. `make`: its files are
    made first."""
    try:
        if make:
            place.make()
        status = place.drive()
    except Failed as e:
        job.become(state="failed", message=str(e))
        return 1, str(e)
    job.become(state="failed" if status else "finished", status=status, message="")
    return status, ""
