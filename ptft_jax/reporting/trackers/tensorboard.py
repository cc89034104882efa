"""TensorBoard: event files below WORKDIR/tensorboard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting.trackers.base import Launch
from ptft_jax.runs.workdir import Workdir


class TensorBoard:
    """Event files. Where a run continues, TensorBoard is told from which step on what it was given before is void."""

    def start(self, launch: Launch) -> str:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = Workdir(launch.workdir).events
        resumed = folder.is_dir()
        self._events = EventFileWriter(str(folder))
        if resumed:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            void = launch.step + (0 if launch.pending else 1)
            self._events.add_event(event_pb2.Event(step=void, wall_time=time.time(), session_log=start))
        return ""

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        scalars = [summary_pb2.Summary.Value(tag=f"{kind}/{k}", simple_value=v) for k, v in values.items()]
        event = event_pb2.Event(step=step, wall_time=time.time(), summary=summary_pb2.Summary(value=scalars))
        self._events.add_event(event)

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Texts are in samples.jsonl."""

    def close(self, status: str) -> None:
        self._events.close()
