"""Nodes as jobs of Cloud TPU, GKE, Vertex AI or SLURM, by what drives those of `ptft launch`.

What a node is given and gives back are files of the experiment, which the machines see under the same path:

FOLDER/jobs/NAME/task.json      what `ptft node` carries out there
FOLDER/jobs/NAME/began          is there once it was begun
FOLDER/jobs/NAME/leave          asks it to save and leave
FOLDER/jobs/NAME/outcome.json   how it ended
FOLDER/jobs/NAME/launch.log     what the driver said

NAME is also the job's: it follows from what the node is and where, so the next launch of an experiment takes up jobs that go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import queue
import re
import threading
from collections.abc import Mapping
from typing import Any

from ptft_jax import environment
from ptft_jax.errors import UserError, nearest
from ptft_jax.experiments.executors import elsewhere
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.jobs import bundle, places, record, request
from ptft_jax.jobs.failures import Failed
from ptft_jax.jobs.shell import Left, Shell
from ptft_jax.runs import files

_GRACE = 180.0  # seconds that a machine may take to save and leave
_TAIL = 20  # lines of what the driver said that go to the log of a node that left nothing
_POLL = 20.0
LISTS = ("copy", "extra", "pin", "buckets", "env")  # settings that may be given more than once
_OWN = ("name", "words", "keep")  # fields of a request that are not the user's here


@dataclasses.dataclass(frozen=True)
class Files:
    """Those of one job."""

    folder: pathlib.Path

    @property
    def task(self) -> pathlib.Path:
        return self.folder / "task.json"

    @property
    def began(self) -> pathlib.Path:
        return self.folder / "began"

    @property
    def leave(self) -> pathlib.Path:
        return self.folder / "leave"

    @property
    def outcome(self) -> pathlib.Path:
        return self.folder / "outcome.json"

    @property
    def said(self) -> pathlib.Path:
        return self.folder / "launch.log"


class AsJobs:
    """Implements `ptft_jax.experiments.executors.base.Executor`. All machines need the same versions and one file system."""

    here = False

    def __init__(self, slots: int, out: str | pathlib.Path, **settings: Any):
        """
        Args:
          slots: jobs at a time, those that wait for machines among them.
          out: the experiment's folder, which the machines have to see under this path.
          settings: of jobs, by names of `ptft launch`'s flags: on, topology, project, zone, spot, ...; those of launch.toml beside them.

        Raises:
          UserError: a setting is missing or unknown, the machines would not see the folder, a tool is not installed.
        """
        self.slots, self._out = slots, pathlib.Path(out).expanduser().absolute()
        self._poll = float(settings.pop("poll", _POLL))
        asked = request.Request(
            name="node", words=("node", f"--task={self._out}/jobs/node/task.json"), **_values(settings)
        )
        for what, place in (("--out", self._out), ("this folder", pathlib.Path.cwd())):
            _check_shared(asked, what, place)
        try:
            self._asked = request.check(asked)
            bundle.check(self._asked)
        except UserError as e:
            raise UserError(
                f"--executor=jobs: {e}; settings of jobs are given by --job NAME=VALUE, or in launch.toml"
            ) from e
        places.place(record.Job(self._asked, record.root() / "node"), Shell(print), lambda: None)  # its tool is there
        self._by = elsewhere.described()
        self._jobs: dict[str, _Driven] = {}
        self._ended: queue.Queue[tuple[str, Outcome]] = queue.Queue()

    @property
    def on(self) -> str:
        """Where the jobs run, of `ptft_jax.jobs.request.PLACES`."""
        return self._asked.on

    def start(self, task: Task) -> None:
        given = {"task": dataclasses.asdict(task), "asked_by": self._by}
        name = _name(task)
        here = Files(self._out / "jobs" / name)
        more: dict[str, Any] = {"name": name, "words": ("node", f"--task={here.task}")}
        if self._asked.on in ("tpu", "gke"):
            read = re.findall(rf'"{re.escape(request.MOUNT)}/([^/"]+)', json.dumps(given))
            more["buckets"] = tuple(dict.fromkeys([*self._asked.buckets, *read]))
        if self._asked.on == "tpu" and not self._asked.image:
            more |= {"wheel": self._wheel(), "pin": self._asked.pin or _pins(self._by["versions"])}
        asked = request.check(dataclasses.replace(self._asked, **more))
        here.folder.mkdir(parents=True, exist_ok=True)
        self._jobs[task.name] = _Driven(task.name, pathlib.Path(task.log), given, asked, here, self._poll, self._ended)

    def _wheel(self) -> str:
        """One for all jobs. Raises UserError where none can be built."""
        if not self._asked.wheel:
            folder = self._out / "jobs"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._asked = dataclasses.replace(self._asked, wheel=str(bundle.built(folder, Shell(print))))
            except Failed as e:
                raise UserError(str(e)) from e
        return self._asked.wheel

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        try:
            name, outcome = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        del self._jobs[name]
        return name, outcome

    def stop(self) -> None:
        for job in self._jobs.values():
            job.leave()

    def close(self) -> None:
        for job in self._jobs.values():
            job.end()
        for job in self._jobs.values():
            job.join()


class _Driven:
    """One job, driven by a thread: from where it is to its end, or until it is asked to leave."""

    def __init__(
        self,
        node: str,
        log: pathlib.Path,
        given: Mapping[str, Any],
        asked: request.Request,
        here: Files,
        poll: float,
        ended: queue.Queue[tuple[str, Outcome]],
    ):
        self._log, self._given, self._asked, self._here, self._poll = log, given, asked, here, poll
        self._lines: list[str] = []
        self._shell, self._over, self._leaving = Shell(self._say), threading.Event(), False
        self._timer = threading.Timer(_GRACE, self.end)
        self._timer.daemon = True
        self._thread = threading.Thread(target=lambda: ended.put((node, self._outcome())), daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Has it save and leave where it was begun, and ends it where it waits for machines, or takes too long."""
        if not self._leaving and self._here.began.exists():
            self._leaving = True
            self._here.leave.touch()
            self._timer.start()
        else:
            self.end()

    def end(self) -> None:
        """Ends it at once, with its machines."""
        self._leaving = True
        self._over.set()
        self._shell.end()

    def join(self) -> None:
        self._thread.join()

    def _say(self, text: str) -> None:
        self._lines += text.splitlines()
        with contextlib.suppress(OSError), self._here.said.open("a", encoding="utf-8") as f:
            f.write(f"{text}\n")

    def _pause(self) -> None:
        if self._over.wait(self._poll):
            raise Left

    def _outcome(self) -> Outcome:
        try:
            with record.held(self._asked.name):
                return self._driven()
        except (UserError, OSError) as e:  # another launch drives it; no room
            return Outcome("failed", str(e))
        finally:
            self._timer.cancel()

    def _driven(self) -> Outcome:
        job, new = self._begun()
        try:
            place = places.place(job, self._shell, self._pause)
            if new:
                job.become()
            else:
                self._say(f"{job.request.name} is {job.state}, and is taken up")
            _, problem = places.carried(job, place, new)
        except Left:
            problem = ""
        lost, left = job.there, ""  # a command that was killed, or is not reached
        if lost:
            try:
                places.place(job, Shell(self._say), lambda: None).delete()
                job.become(state="deleted")
            except Failed as e:
                left = str(e)
        if self._here.outcome.is_file():
            found = Outcome(**files.read_json(self._here.outcome))
            return dataclasses.replace(found, message="; ".join(filter(None, (found.message, left))))
        if self._leaving:
            return Outcome("interrupted", "; ".join(filter(None, ("its job was ended", left))))
        return self._without(problem, lost, left)

    def _begun(self) -> tuple[record.Job, bool]:
        """The job, and whether it is a new one."""
        self._here.leave.unlink(missing_ok=True)
        if (record.root() / self._asked.name / record.RECORD).is_file():
            job = record.read(self._asked.name)
            if job.goes_on:
                return job, False
        for path in (self._here.outcome, self._here.began):
            path.unlink(missing_ok=True)
        files.write_json(self._here.task, self._given)
        return record.new(self._asked), True

    def _without(self, problem: str, lost: bool, left: str) -> Outcome:
        """Of a job that left no outcome. The end of what its driver said goes to the node's log."""
        with contextlib.suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as f:
                f.writelines(f"{line}\n" for line in [*self._lines[-_TAIL:], *problem.splitlines()])
        if left:
            return Outcome("failed", f"{problem}; {left}" if problem else left)
        if problem and not lost:  # no machines were to be had
            return Outcome("failed", problem)
        last = problem or next((line for line in reversed(self._lines) if line.strip()), "it said nothing")
        short = any(word in last for word in ("OUT_OF_MEMORY", "OOMKilled"))
        return Outcome("out_of_memory" if short else "killed", f"job {self._asked.name} left no outcome: {last}")


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request from settings, and from launch.toml where that is. Raises UserError."""
    fields = {f.name: f for f in dataclasses.fields(request.Request) if f.name not in _OWN}
    path = pathlib.Path("launch.toml")
    shared = (
        request.read_defaults(path, [*(name for name in fields if name != "env"), "keep"]) if path.is_file() else {}
    )
    found: dict[str, Any] = {}
    for name, value in {**shared, **settings}.items():
        if name == "keep" and name in shared:
            continue
        where = f"--job={name}={value}" if name in settings else f"{path}: {name} = {value!r}"
        if name not in fields:
            raise UserError(f"{where}: {name} is no setting of jobs{nearest(name, [*fields, 'poll'])}")
        default = fields[name].default
        if name in LISTS:
            words = (value,) if isinstance(value, str) else tuple(value)
            found[name] = request.variables(words) if name == "env" else words
        elif isinstance(default, bool):
            if str(value).lower() not in ("true", "false"):
                raise UserError(f"{where}: expected true or false")
            found[name] = str(value).lower() == "true"
        elif isinstance(default, (int, float)):
            try:
                found[name] = type(default)(value)
            except ValueError:
                raise UserError(f"{where}: expected a number") from None
        else:
            found[name] = str(value)
    if not found.get("on"):
        raise UserError("--executor=jobs: --job on=PLACE is missing: tpu, gke, slurm or vertex")
    return found


def _check_shared(asked: request.Request, what: str, place: pathlib.Path) -> None:
    """Raises UserError for a folder that the machines would not see under the same path. Of a cluster of SLURM each machine looks itself."""
    if asked.on == "slurm":
        return
    bucket = request.mounted(f"{place}/")
    if bucket is None or not os.path.ismount(f"{request.MOUNT}/{bucket}"):
        raise UserError(
            f"--executor=jobs: machines of --job on={asked.on} do not see {what} ({place}): expected a folder of a bucket that is mounted here as it is "
            f"there, {request.MOUNT}/{bucket or 'BUCKET'}/...: gcsfuse --implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 "
            f"{bucket or 'BUCKET'} {request.MOUNT}/{bucket or 'BUCKET'}"
        )


def _name(task: Task) -> str:
    """A name for a job, its machines and its files: of what is carried out, and where."""
    what = json.dumps(
        [task.kind, task.folder, task.settings, task.fingerprint, task.trial], sort_keys=True, default=str
    )
    words = re.sub(r"[^a-z0-9]+", "-", task.name.lower()).strip("-")[:25].strip("-")
    return f"n-{words}-{hashlib.sha256(what.encode()).hexdigest()[:10]}"


def _pins(versions: Mapping[str, str]) -> tuple[str, ...]:
    """What the machines are to install, so that they have the versions of who asks."""
    named = {environment.DISTRIBUTIONS.get(name, name): version for name, version in versions.items()}
    return tuple(f"{name}=={version}" for name, version in named.items() if version != "-" and name != "ptft_jax")
