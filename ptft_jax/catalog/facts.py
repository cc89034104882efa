"""What is known of a run, as one table: its settings, where it stands, what came out of it."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.runs import lineage, owner
from ptft_jax.runs.workdir import Workdir

# Where a run stands.
FINISHED, RUNNING, STOPPED, PRUNED, NOT_FINITE, DAMAGED = (
    "finished", "running", "stopped", "pruned", "not finite", "damaged",
)  # fmt: skip
# What is known of every run beside its settings and what its summary says, with the meaning.
OWN = {
    "name": "the folder, seen from the one that is listed",
    "state": f"{FINISHED}, {RUNNING}, {STOPPED} (it can be continued), {PRUNED} (by a search; it can be continued too), "
    f"{NOT_FINITE} (its loss was), or {DAMAGED}",
    "step": "the last step that is known of",
    "parent": "what it was started from",
    "ancestors": "how many runs are behind it",
    "changed": "when its folder last said something new",
    "problem": "what is wrong with a damaged one",
}
# What is shown unasked, of what some of the listed runs have; heads of columns for people.
SHOWN = {
    "name": "run",
    "state": "state",
    "step": "step",
    "parent": "parent",
    "tune.method": "method",
    "objective.name": "objective",
    "selected.metric": "selected by",
    "selected.value": "best",
    "transfer.target.gain": "gain",
    "transfer.source.forgetting": "forgotten",
    "seconds": "seconds",
    "problem": "problem",
}
_HERE = Workdir(pathlib.Path())
_READ = tuple(file.name for file in (_HERE.config, _HERE.summary, _HERE.metrics, _HERE.lineage))
_TAIL = 1 << 16  # bytes of a file of metrics that are looked at


def of(path: pathlib.Path) -> dict[str, Any]:
    """Name -> number, text, boolean or None (a list as JSON), by dotted names: of settings ("tune.method"), of the summary
    ("after.validation/nll"), of the latest metrics ("latest.validation/nll"), and of `OWN` but for "name" and, of a run that has not finished, "state"."""
    here, found = Workdir(path), dict[str, Any]()
    try:
        found |= _flat(here.recorded_config())
        if "init.from_" in found:
            found["init.from"] = found.pop("init.from_")
        chain = here.read_lineage()
        found |= {"parent": lineage.place(chain[0]) if chain else None, "ancestors": len(chain)}
        summary = here.read_summary()
        if summary is not None:
            found |= _flat({name: value for name, value in summary.items() if name not in ("workdir", "seed")})
            found["state"] = FINISHED
        latest = _latest(here.metrics)
        found.setdefault("step", latest.pop("step", 0))
        found |= {f"latest.{name}": value for name, value in latest.items() if name not in ("kind", "time", "step")}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as e:
        found |= {"state": DAMAGED, "problem": str(e) or type(e).__name__}
    found["changed"] = datetime.datetime.fromtimestamp(_changed(here)).isoformat(" ", timespec="seconds")
    return found


def state(path: pathlib.Path) -> str:
    """Where a run stands that has not finished, now."""
    if owner.alive(path):
        return RUNNING
    if Workdir(path).read_pruned():
        return PRUNED
    return NOT_FINITE if next(path.glob("nonfinite_step_*.npz"), None) else STOPPED


def stamp(path: str) -> str:
    """What changes with what `of` gives."""
    return " ".join(_stamp(os.path.join(path, name)) for name in _READ)


def _stamp(path: str) -> str:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return "-"
    return f"{stat.st_mtime_ns}:{stat.st_size}"


def _changed(here: Workdir) -> float:
    times = [os.stat(file).st_mtime for file in (here.config, here.summary, here.metrics) if file.exists()]
    return max(times, default=0.0)


def _latest(path: pathlib.Path) -> dict[str, Any]:
    """The latest values in a file of metrics, by the end of it alone; {} where there is none."""
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
        lines = file.read().split(b"\n")
    found: dict[str, Any] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # half written, or the end of a row that began before
            continue
        if isinstance(row, dict):
            found |= row
    return found


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_leaves(tree, ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield prefix + name, json.dumps(value, ensure_ascii=False)
        else:
            yield prefix + name, value
