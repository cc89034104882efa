"""What was launched from this machine: a folder for each job, with what was asked for, what became of it, and the files that it was given."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.jobs.request import Request

ENDED = ("finished", "failed", "deleted")


def root() -> pathlib.Path:
    """The folder of all jobs: $PTFT_JOBS, else `ptft_jax/jobs` in the user's state folder ($XDG_STATE_HOME or ~/.local/state)."""
    if os.environ.get("PTFT_JOBS"):
        return pathlib.Path(os.environ["PTFT_JOBS"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "ptft_jax" / "jobs"


@dataclasses.dataclass
class Job:
    """A job, as its record has it.

    Attributes:
      state: "prepared", "waiting" for machines, "running", or one of ENDED.
      attempt: of how many machines it is that were made for it, from 1.
      started: whether the command was started on these.
      handle: what the place calls it, where that is not its name.
      there: whether machines, or requests for them, may still be there.
      status: exit status of the command; None where it has none.
    """

    request: Request
    folder: pathlib.Path
    state: str = "prepared"
    attempt: int = 1
    started: bool = False
    handle: str = ""
    there: bool = False
    status: int | None = None
    message: str = ""
    created: str = ""
    changed: str = ""

    @property
    def files(self) -> pathlib.Path:
        """What the job was given."""
        return self.folder / "files"

    @property
    def goes_on(self) -> bool:
        """Whether it is not over. One that is prepared alone is: its process was killed before it asked for machines."""
        return self.there or self.state not in (*ENDED, "prepared")

    def become(self, **values: Any) -> None:
        """Changes fields, and writes the record."""
        for name, value in values.items():
            setattr(self, name, value)
        self.changed = _now()
        self.created = self.created or self.changed
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("request", "folder")
        }
        text = json.dumps({**fields, "request": self.request.recorded()}, indent=1, ensure_ascii=False)
        temporary = self.folder / f".job.{os.getpid()}.json"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.folder / RECORD)


RECORD = "job.json"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read(name: str) -> Job:
    """The record of a job. Raises UserError where there is none."""
    path = root() / name / RECORD
    if not path.is_file():
        raise UserError(
            f"--name={name}: no job of this name was launched from here{nearest(name, [j.name for j in _folders()])}"
        )
    return _read(path)


def _read(path: pathlib.Path) -> Job:
    try:
        found = json.loads(path.read_bytes())
        request = Request.of(found.pop("request"))
        return Job(request, path.parent, **found)
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: is damaged: {e}") from e


def _folders() -> list[pathlib.Path]:
    return sorted(path.parent for path in root().glob(f"*/{RECORD}"))


def listed() -> list[Job]:
    """All jobs, the latest first."""
    return sorted((_read(folder / RECORD) for folder in _folders()), key=lambda job: job.created, reverse=True)


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Holds a name: one process at a time drives a job. Raises UserError where another does."""
    folder = root() / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".held").open("a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            f.seek(0)
            raise UserError(f"--name={name}: another launch drives this job ({f.read().strip() or 'a process'})") from e
        f.truncate(0)
        f.write(f"process {os.getpid()}")
        f.flush()
        yield


def new(request: Request) -> Job:
    """A job that was not there, or has ended. To be called while its name is held. Raises UserError where one of its name goes on."""
    folder = root() / request.name
    if (folder / RECORD).is_file():
        before = _read(folder / RECORD)
        if before.goes_on:
            raise UserError(
                f"--name={request.name}: was launched {before.created} on {before.request.on}, and is {before.state}"
                f"{', its machines may be there' if before.there else ''}: ptft launch --name={request.name} --follow or --delete, or take another --name"
            )
        shutil.rmtree(before.files, ignore_errors=True)
    return Job(request, folder)
