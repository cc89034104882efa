"""The trackers of one launch of a run, told together; what they know of it is kept in WORKDIR/trackers.json."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ptft_jax.config.trackers import TrackerSpec
from ptft_jax.reporting.trackers.base import Guarded, Launch, text_kind
from ptft_jax.runs import files
from ptft_jax.runs.workdir import Workdir


class Relay:
    """Tells all trackers of `config.log.trackers`. Each goes on with its own run of an earlier launch."""

    def __init__(
        self,
        specs: Mapping[str, TrackerSpec],
        launch: Launch,
        say: Callable[[str], None],
        rows: Iterable[Mapping[str, Any]],
    ):
        """`rows`: what earlier launches wrote into metrics.jsonl and samples.jsonl, which the trackers were told."""
        self._path, self._lock = Workdir(launch.workdir).trackers, threading.Lock()
        self._record = self._read(launch.run_id)
        told = _last(rows)
        for entry in self._record.values():
            entry["told"] = {k: max(told.get(k, -1), entry["told"].get(k, -1)) for k in told | entry["told"]}
        self._trackers = []
        for name, spec in specs.items():
            entry = self._record.get(name, {"tracked_as": "", "told": {}})
            try:
                built = spec.build()
            except Exception as e:  # somebody's class; the run needs none of it
                say(f"log.trackers: {name} cannot be made: {type(e).__name__}: {e}\nThe run goes on without it")
                continue
            tracker = Guarded(name, built, say, entry["told"])
            tracker.start(
                dataclasses.replace(launch, tracked_as=entry["tracked_as"]), self._keeper(name, launch.run_id)
            )
            self._trackers.append(tracker)
        self._write()

    def _read(self, run_id: str) -> dict[str, Any]:
        """{name: {"run_id", "tracked_as", "told": {kind: step}}} of this run; what an earlier one in this folder, which never made
        a step, left is none of it."""
        found = files.read_json(self._path) if self._path.is_file() else {}
        return {name: entry for name, entry in found.items() if entry["run_id"] == run_id}

    def _keeper(self, name: str, run_id: str) -> Callable[[str], None]:
        def keep(tracked_as: str) -> None:
            with self._lock:
                told = self._record.get(name, {}).get("told", {})
                self._record[name] = {"run_id": run_id, "tracked_as": tracked_as, "told": told}
            self._write()

        return keep

    def _write(self) -> None:
        with self._lock:
            files.write_json(self._path, self._record)

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, kind, dict(values))

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for tracker in self._trackers:
            tracker.texts(step, [dict(row) for row in rows])

    def close(self, status: str) -> None:
        for tracker in self._trackers:
            tracker.close(status)


def _last(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The last step of each kind."""
    last: dict[str, int] = {}
    for row in rows:
        kind = row.get("kind") or text_kind(row)
        last[kind] = max(row["step"], last.get(kind, -1))
    return last
