"""Metrics on disk, one JSON object per line; and telling them, with sample texts, to all that track a run."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from ptft_jax.config.trackers import TrackerSpec
from ptft_jax.data import cache
from ptft_jax.reporting.trackers.base import STOPPED, Launch
from ptft_jax.reporting.trackers.relay import Relay
from ptft_jax.reporting.trackers.tensorboard import TensorBoard
from ptft_jax.runs.files import read_rows, write_text
from ptft_jax.runs.workdir import Workdir


class JsonLines:
    """The tracker of every run: metrics.jsonl, samples.jsonl, and answers.jsonl and pictures.jsonl once there are any.

    On resume, what the run will write again is dropped first: lines after the restored step, what was found at that step where
    that is `pending`, and what is written at the end. So each has one line however often the run was killed.
    """

    def start(self, launch: Launch) -> str:
        here = Workdir(launch.workdir)
        for path in (here.metrics, here.samples, here.answers, here.pictures):
            _keep(path, lambda row: _stays(row, launch.step, launch.pending))
        self._metrics, self._samples = (
            (path, path.open("a", encoding="utf-8")) for path in (here.metrics, here.samples)
        )
        return ""

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """{"step", "kind", "time", ...values}, "time" being now in seconds since 1970."""
        _append(self._metrics, {"step": step, "kind": kind, "time": round(time.time(), 3), **values})

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            _append(self._samples, {"step": step, **row})

    def rows(self, path: pathlib.Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        with path.open("a", encoding="utf-8") as file:
            for row in rows:
                _append((path, file), {"step": step, **row})

    def close(self, status: str) -> None:
        for path, file in (self._metrics, self._samples):
            with cache.writing(path):
                file.close()


class MetricsWriter:
    """Tells all trackers of a run what it measures and writes: metrics.jsonl and samples.jsonl, TensorBoard, and those of
    `config.log.trackers`. Where several processes share a run, all but one are `silent`.

    Attributes:
      status: how the launch has ended when this is closed, of `ptft_jax.reporting.trackers.base`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        tensorboard: bool,
        step: int,
        pending: bool = False,
        silent: bool = False,
        trackers: Mapping[str, TrackerSpec] | None = None,
        config: Mapping[str, Any] | None = None,
        run_id: str = "",
        say: Callable[[str], None] = print,
    ):
        """
        Args:
          step: the restored one; -1 = none, and nothing stays.
          pending: what is found at that step will be written again.
          trackers: services that are told, too, by name.
          config, run_id: what these are told of the run.
          say: is told, once, of a tracker that fails.
        """
        self.status, self._here = STOPPED, Workdir(workdir)
        self._trackers: list[TensorBoard | JsonLines | Relay] = []
        self._files = JsonLines()
        if silent:
            return
        launch = Launch(config or {}, pathlib.Path(workdir), run_id, step, pending)
        if trackers:
            told = [*self._here.read_metrics(), *self._here.read_samples()]
            self._trackers.append(Relay(trackers, launch, say, told))
        for tracker in (TensorBoard(), self._files) if tensorboard else (self._files,):
            tracker.start(launch)
            self._trackers.insert(0, tracker)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Numbers of a step: a row of metrics.jsonl, scalars kind/name elsewhere."""
        for tracker in self._trackers:
            tracker.scalars(step, kind, values)

    def sample(self, step: int, *rows: Mapping[str, Any]) -> None:
        """Sample texts of a step."""
        for tracker in self._trackers if rows else ():
            tracker.texts(step, rows)

    def answers(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Answers of a step, with their scores, for answers.jsonl; the trackers have their means."""
        if self._trackers and rows:
            self._files.rows(self._here.answers, step, rows)

    def pictures(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Images beside what is made of them at a step, for pictures.jsonl."""
        if self._trackers and rows:
            self._files.rows(self._here.pictures, step, rows)

    def close(self) -> None:
        """To be called once; what the trackers are told is `status`."""
        for tracker in self._trackers:
            tracker.close(self.status)


def _append(opened: tuple[pathlib.Path, IO[str]], row: Mapping[str, Any]) -> None:
    path, file = opened
    with cache.writing(path):
        print(json.dumps(row, ensure_ascii=False), file=file, flush=True)


def _stays(row: Mapping[str, Any], step: int, pending: bool) -> bool:
    # Of the end, which is done again; of pictures of earlier versions all were.
    if row.get("kind") == "test" or row.get("selected") or "step" not in row:
        return False
    found = row.get("kind") != "train"  # an evaluation or a sample, which come after the step itself
    return row["step"] < step or (row["step"] == step and not (pending and found))


def _keep(path: pathlib.Path, stays: Callable[[Mapping[str, Any]], bool]) -> None:
    if path.exists():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_rows(path) if stays(row)))
