"""Custom jobs of Vertex AI, by gcloud."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ptft_jax.jobs.failures import UNANSWERED, Failed, kind, told
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.request import Request
from ptft_jax.jobs.shell import Shell

SPEC = "custom_job.yaml"
_WELL = "JOB_STATE_SUCCEEDED"
_ENDED = (_WELL, "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED", "JOB_STATE_PARTIALLY_SUCCEEDED")
_TRIES = 6


def spec(request: Request, hidden: bool = False) -> dict[str, Any]:
    """A CustomJobSpec. Buckets are below /gcs there, without being asked for. `hidden`: without what variables hold."""
    where = request.slice
    container: dict[str, Any] = {"imageUri": request.image, "command": ["ptft"], "args": list(request.words)}
    if request.env:
        container["env"] = [{"name": n, "value": "..." if hidden else value} for n, value in request.env.items()]
    found: dict[str, Any] = {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": where.machine, "tpuTopology": where.shape},
                "replicaCount": 1,
                "containerSpec": container,
            }
        ],
    }
    if request.spot:
        found["scheduling"] = {"strategy": "SPOT"}
    if request.service_account:
        found["serviceAccount"] = request.service_account
    return found


def written(request: Request, hidden: bool = False) -> str:
    """The specification as YAML."""
    import yaml

    return yaml.safe_dump(spec(request, hidden), sort_keys=False, allow_unicode=True, width=120)


class Vertex:
    """Drives a job, from wherever it is."""

    def __init__(self, job: Job, shell: Shell, pause: Callable[[], None]):
        self._job, self._shell, self._pause = job, shell, pause
        self._request = job.request
        shell.needs("gcloud")

    def _gcloud(self, *words: str) -> list[str]:
        r = self._request
        return ["gcloud", "ai", "custom-jobs", *words, f"--project={r.project}", f"--region={r.region}", "--quiet"]

    def _create(self) -> list[str]:
        named = [f"--display-name={self._request.name}", f"--config={self._job.files / SPEC}"]
        return self._gcloud("create", *named, "--format=value(name)", *self._request.extra)

    def _describe(self) -> list[str]:
        return self._gcloud("describe", self._job.handle or "JOB", "--format=json")

    def _logs(self) -> list[str]:
        return self._gcloud("stream-logs", self._job.handle or "JOB")

    def show(self) -> None:
        """Prints every command and file, with a dry shell."""
        self._shell.say(f"# {self._job.files / SPEC}\n{written(self._request, hidden=True)}")
        for words in (self._create(), self._logs(), self._describe()):
            self._shell.run(words)

    def make(self) -> None:
        """Makes the files."""
        self._job.files.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._job.files / SPEC
        path.touch(mode=0o600)
        path.write_text(written(self._request), encoding="utf-8")

    def drive(self) -> int:
        """0 where the job has succeeded, else 1. Raises Failed."""
        job = self._job
        while True:
            if not job.there:
                done = self._shell.run(self._create())
                if done.status or not done.out.strip():
                    raise Failed(told(f"{job.request.name} could not be created", done.said))
                job.become(state="waiting", there=True, handle=done.out.split()[-1])
                self._shell.say(f"{job.request.name}: {job.handle}")
            state, reason = self._follow()
            job.become(there=False)
            if state == _WELL:
                return 0
            again = (
                self._request.spot and kind(reason).name in ("stockout", *UNANSWERED)
            ) or "preempt" in reason.lower()
            if not again or job.attempt > self._request.retries:
                raise Failed(told(f"{job.request.name}: {state}", reason))
            self._shell.say(
                f"{job.request.name}: {state} ({reason}): again ({job.attempt} of {self._request.retries} times)"
            )
            job.become(attempt=job.attempt + 1, handle="")
            self._pause()

    def delete(self) -> None:
        """Cancels the job. Raises Failed."""
        done = self._shell.run(self._gcloud("cancel", self._job.handle))
        if done.status and kind(done.said).name != "missing" and "FAILED_PRECONDITION" not in done.said:  # has ended
            raise Failed(told(f"{self._job.handle} could not be cancelled", done.said))
        self._job.become(there=False)

    def _follow(self) -> tuple[str, str]:
        """State and reason, once it has ended. Raises Failed."""
        failed, last = 0, ""
        while True:
            self._shell.follow(self._logs(), self._shell.say)  # until it ends, or the connection is lost
            done = self._shell.run(self._describe())
            try:
                found = json.loads(done.out) if not done.status else None
            except ValueError:
                found = None
            if found is None:
                failed += 1
                if failed >= _TRIES or kind(done.said).name not in UNANSWERED:
                    raise Failed(told(f"nothing is known of {self._job.handle}", done.said))
            else:
                failed, state = 0, found.get("state", "")
                if state in _ENDED:
                    return state, found.get("error", {}).get("message", "")
                if state != last:
                    self._shell.say(f"{self._request.name}: {state}")
                last = state
            self._pause()
