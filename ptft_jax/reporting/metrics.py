"""Metrics on disk: one JSON object a line, and TensorBoard event files."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.data import cache
from ptft_jax.errors import UserError

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


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
        files = [pathlib.Path(os.devnull) if silent else workdir / name for name in (METRICS, SAMPLES)]
        for file in files if not silent else ():
            _keep(file, lambda row: _stays(row, step, pending))
        opened = ((file, file.open("a", encoding="utf-8")) for file in files)
        self._files = dict(zip((METRICS, SAMPLES), opened))
        self._events = None
        if tensorboard and not silent:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            resumed = (workdir / "tensorboard").is_dir()
            self._events = EventFileWriter(str(workdir / "tensorboard"))
            if resumed:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                void = step + (0 if pending else 1)
                self._events.add_event(event_pb2.Event(step=void, wall_time=time.time(), session_log=start))

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One row: {"step", "kind", ...values}; the same values as scalars kind/name."""
        self._append(METRICS, {"step": step, "kind": kind, **values})
        if self._events is not None:
            from tensorboard.compat.proto import event_pb2, summary_pb2

            scalars = [summary_pb2.Summary.Value(tag=f"{kind}/{k}", simple_value=v) for k, v in values.items()]
            event = event_pb2.Event(step=step, wall_time=time.time(), summary=summary_pb2.Summary(value=scalars))
            self._events.add_event(event)

    def sample(self, step: int, row: dict[str, Any]) -> None:
        """One sample text: {"step", ...row}."""
        self._append(SAMPLES, {"step": step, **row})

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        path, file = self._files[name]
        with cache.writing(path):
            print(json.dumps(row, ensure_ascii=False), file=file, flush=True)

    def close(self) -> None:
        for path, file in self._files.values():
            with cache.writing(path):
                file.close()
        if self._events is not None:
            self._events.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file in UTF-8; none where there is no file. A half-written last line (a kill) is no row.

    Raises:
      UserError: another line is not JSON.
    """
    if not path.exists():
        return []
    rows, broken = [], 0
    # Bytes, cut at b"\n" only: generated texts hold other line ends, and a kill may cut within a character.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            broken = broken or number
            continue
        if broken:
            raise UserError(f"{path}, line {broken}: is damaged, it is not JSON; lines after it are")
    return rows


def _stays(row: Mapping[str, Any], step: int, pending: bool) -> bool:
    if row.get("kind") == "test" or row.get("selected"):  # of the end, which is done anew
        return False
    found = row.get("kind") != "train"  # an evaluation or a sample, which come after the step itself
    return row["step"] < step or (row["step"] == step and not (pending and found))


def _keep(path: pathlib.Path, stays: Callable[[Mapping[str, Any]], bool]) -> None:
    if path.exists():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read(path) if stays(row)))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, as UTF-8, whole or not at all."""
    cache.write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    cache.write_atomic(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=_plain, ensure_ascii=False) + os.linesep)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return str(value)
