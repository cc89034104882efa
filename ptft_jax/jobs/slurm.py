"""Jobs of SLURM: an sbatch script for one process per host."""

from __future__ import annotations

import pathlib
import re
import shlex
import sys
from collections.abc import Callable

from ptft_jax.jobs.failures import Failed, told
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.request import Request
from ptft_jax.jobs.shell import Shell

SCRIPT = "job.sbatch"
# Of `squeue`: those that have ended, and how (man squeue, "JOB STATE CODES").
_WELL = "COMPLETED"
_ENDED = (
    _WELL,
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
    "REVOKED",
)


def script(request: Request, log: pathlib.Path, hidden: bool = False) -> str:
    """What sbatch is given. `hidden`: without what variables hold.

    The scheduler's signal comes two minutes before the end of the job's time; training then saves and leaves with status 143, and the job
    goes back into the queue.
    """
    options = [
        f"--job-name={request.name}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={request.gpus_per_node}"] if request.gpus_per_node else []),
        f"--output={log}",
        "--open-mode=append",
        "--requeue",
        "--signal=TERM@120",
        *request.extra,
    ]
    env = [f"export {name}={'...' if hidden else shlex.quote(value)}" for name, value in request.env.items()]
    if request.gpus_per_node:
        # JAX takes SLURM's processes for one per GPU: else each would see the first of its host alone.
        env.append(f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(request.gpus_per_node)))}")
    ptft = [sys.executable, "-m", "ptft_jax.cli", *request.words]
    if request.image:
        ptft = [
            "apptainer",
            "exec",
            *(["--nv"] if request.gpus_per_node else []),
            request.image,
            "ptft",
            *request.words,
        ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            "set -u",
            *env,
            f"cd {shlex.quote(str(pathlib.Path.cwd()))}",
            f"srun --kill-on-bad-exit=1 --ntasks-per-node=1 {shlex.join(ptft)}",
            "status=$?",
            f'if [ "$status" -eq 143 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {request.retries} ]; then',
            '  scontrol requeue "$SLURM_JOB_ID" && exit 0  # it has saved, and goes on where it was',
            "fi",
            'exit "$status"',
            "",
        ]
    )


class Slurm:
    """Submits a job, and says how it goes."""

    def __init__(self, job: Job, shell: Shell, pause: Callable[[], None]):
        self._job, self._shell, self._pause = job, shell, pause
        self._request = job.request
        shell.needs("sbatch")

    @property
    def _log(self) -> pathlib.Path:
        return self._job.folder / "log"

    def _submit(self) -> list[str]:
        return ["sbatch", "--parsable", str(self._job.files / SCRIPT)]

    def _queue(self) -> list[str]:
        return ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={self._job.handle or 'JOB'}"]

    def _account(self) -> list[str]:
        return [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--format=State",
            f"--jobs={self._job.handle or 'JOB'}",
        ]

    def show(self) -> None:
        """Prints every command and file, with a dry shell."""
        self._shell.say(f"# {self._job.files / SCRIPT}\n{script(self._request, self._log, hidden=True)}")
        self._shell.run(self._submit())
        self._shell.say("# until it has ended:")
        self._shell.run(self._queue())

    def make(self) -> None:
        """Makes the files."""
        self._job.files.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._job.files / SCRIPT
        path.touch(mode=0o700)
        path.write_text(script(self._request, self._log), encoding="utf-8")

    def drive(self) -> int:
        """0 where the job has completed, else 1. Raises Failed."""
        job = self._job
        if not job.there:
            self._log.unlink(missing_ok=True)
            done = self._shell.run(self._submit())
            number = re.match(r"\d+", done.out.strip())
            if done.status or number is None:
                raise Failed(told("sbatch refuses the job", done.said))
            job.become(state="waiting", there=True, handle=number[0])
            self._shell.say(f"job {number[0]}; its log is {self._log}")
        read, last = 0, ""
        while True:
            state = self._state()
            read = self._say_log(read)
            if state != last:
                self._shell.say(f"job {job.handle}: {state}")
            if state in _ENDED:
                job.become(there=False)
                return int(state != _WELL)
            if state == "RUNNING" and job.state != "running":
                job.become(state="running")
            last = state
            self._pause()

    def delete(self) -> None:
        """Cancels the job. Raises Failed."""
        done = self._shell.run(["scancel", self._job.handle])
        if done.status and "Invalid job id" not in done.said:
            raise Failed(told(f"job {self._job.handle} could not be cancelled", done.said))
        self._job.become(there=False)

    def _state(self) -> str:
        done = self._shell.run(self._queue())
        if done.status or not done.out.strip():  # squeue forgets jobs minutes after they ended
            done = self._shell.run(self._account())
        words = done.out.split()
        if done.status or not words:
            raise Failed(told(f"nothing is known of job {self._job.handle}", done.said))
        return words[0].rstrip("+")

    def _say_log(self, begin: int) -> int:
        """Says what the log has from a byte on; where it ends now."""
        if not self._log.is_file():
            return begin
        with self._log.open("rb") as f:
            f.seek(begin)
            data = f.read()
        if end := data.rfind(b"\n") + 1:
            self._shell.say(data[: end - 1].decode("utf-8", "replace"))
        return begin + end
