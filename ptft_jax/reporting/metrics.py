"""Metrics on disk: one JSON object a line, and TensorBoard event files."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from ptft_jax.data import cache
from ptft_jax.runs.files import read_rows, write_text
from ptft_jax.runs.workdir import Workdir


class MetricsWriter:
    """Appends to a run's metrics.jsonl, samples.jsonl and tensorboard/.

    On resume, what the run will write again is dropped first: lines after the restored step, what was found at that step where
    that is `pending`, and what is written at the end. So each has one line however often the run was killed, and TensorBoard
    is told from which step on what it was given before is void. Where several processes share a run, all but one are `silent`.
    """

    def __init__(
        self, workdir: pathlib.Path, *, tensorboard: bool, step: int, pending: bool = False, silent: bool = False
    ):
        """`step`: the restored one; -1 = none, and nothing stays."""
        here = Workdir(workdir)
        files = [pathlib.Path(os.devnull) if silent else file for file in (here.metrics, here.samples)]
        for file in files if not silent else ():
            _keep(file, lambda row: _stays(row, step, pending))
        opened = ((file, file.open("a", encoding="utf-8")) for file in files)
        self._metrics, self._samples = opened
        self._events = None
        if tensorboard and not silent:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            resumed = here.events.is_dir()
            self._events = EventFileWriter(str(here.events))
            if resumed:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                void = step + (0 if pending else 1)
                self._events.add_event(event_pb2.Event(step=void, wall_time=time.time(), session_log=start))

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One row: {"step", "kind", ...values}; the same values as scalars kind/name."""
        _append(self._metrics, {"step": step, "kind": kind, **values})
        if self._events is not None:
            from tensorboard.compat.proto import event_pb2, summary_pb2

            scalars = [summary_pb2.Summary.Value(tag=f"{kind}/{k}", simple_value=v) for k, v in values.items()]
            event = event_pb2.Event(step=step, wall_time=time.time(), summary=summary_pb2.Summary(value=scalars))
            self._events.add_event(event)

    def sample(self, step: int, row: dict[str, Any]) -> None:
        """One sample text: {"step", ...row}."""
        _append(self._samples, {"step": step, **row})

    def close(self) -> None:
        for path, file in (self._metrics, self._samples):
            with cache.writing(path):
                file.close()
        if self._events is not None:
            self._events.close()


def _append(opened: tuple[pathlib.Path, IO[str]], row: Mapping[str, Any]) -> None:
    path, file = opened
    with cache.writing(path):
        print(json.dumps(row, ensure_ascii=False), file=file, flush=True)


def _stays(row: Mapping[str, Any], step: int, pending: bool) -> bool:
    if row.get("kind") == "test" or row.get("selected"):  # of the end, which is done anew
        return False
    found = row.get("kind") != "train"  # an evaluation or a sample, which come after the step itself
    return row["step"] < step or (row["step"] == step and not (pending and found))


def _keep(path: pathlib.Path, stays: Callable[[Mapping[str, Any]], bool]) -> None:
    if path.exists():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_rows(path) if stays(row)))
