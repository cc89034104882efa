"""Which steps of a run others refer to, so that the run does not remove them while it goes on.

A reference is a file in `Workdir.references` of the run that is referred to, named after the step. A run that starts from a step
leaves a lasting one; whoever reads a step leaves one for as long as that takes. A folder that cannot be written is not
protected.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
import uuid
from typing import Any

from ptft_jax.runs import bucket
from ptft_jax.runs.workdir import Workdir

_READING = "reading"
_READING_SECONDS = 3600.0  # after that a reader is taken to have been killed


def keep(workdir: pathlib.Path, step: int, child: pathlib.Path) -> bool:
    """Protects a step of the run in `workdir` for the run in `child`, for good. False where that folder, or the place in a bucket that it
    stands for, cannot be written."""
    child = child.absolute()
    text = {"step": step, "run": bucket.named(child), "relative": os.path.relpath(child, workdir.absolute())}
    name = (
        f"{step}-{uuid.uuid5(uuid.NAMESPACE_URL, str(child)).hex}.json"  # the same file however often it is asked for
    )
    path = _write(workdir, name, text)
    return path is not None and bucket.published(workdir.absolute(), path)


def reading(workdir: pathlib.Path, step: int) -> pathlib.Path | None:
    """Protects a step while it is read: until the file that is returned is given to `release`. None as for `keep`."""
    return _write(workdir, f"{step}-{_READING}-{uuid.uuid4().hex}.json", {"step": step, "pid": os.getpid()})


def release(path: pathlib.Path) -> None:
    """Ends what `reading` began."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are in it
        path.parent.rmdir()


def steps(workdir: pathlib.Path) -> set[int]:
    """The steps of the run in `workdir` that something refers to. Forgets readers that must be gone."""
    found = set()
    for path in Workdir(workdir).references.glob("*.json"):
        number, _, rest = path.name.partition("-")
        if rest.startswith(_READING):
            try:
                gone = time.time() - path.stat().st_mtime > _READING_SECONDS
            except OSError:  # released meanwhile
                continue
            if gone:
                release(path)
                continue
        if number.isdigit():
            found.add(int(number))
    return found


def _write(workdir: pathlib.Path, name: str, value: dict[str, Any]) -> pathlib.Path | None:
    path = Workdir(workdir).references / name
    for _ in range(3):  # the folder goes with its last file
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(value), encoding="utf-8")
            return path
        except FileNotFoundError:
            continue
        except OSError:
            break
    return None
