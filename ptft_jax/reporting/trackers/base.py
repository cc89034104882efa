"""What a tracker is, and what keeps a run safe from one: it fails alone, holds up nothing, and is told nothing twice."""

from __future__ import annotations

import dataclasses
import pathlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

# How a launch ended: the run has finished, it was stopped and can be continued, or an error ended it.
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
PATIENCE = 60.0  # seconds that the end of a launch waits for a tracker


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a tracker may know of a run when it starts.

    Attributes:
      config: nested dicts, with everything filled in.
      workdir: the run's folder; what a tracker keeps locally goes there, below its own name.
      run_id: 32 hex digits, the same in every launch of the run.
      step: the one that the run continues from; -1 of one that begins. What came after it is computed again.
      pending: evaluation and samples of that step have not been done.
      tracked_as: what `Tracker.start` gave in an earlier launch; "" in the first.
    """

    config: Mapping[str, Any]
    workdir: pathlib.Path
    run_id: str
    step: int = -1
    pending: bool = False
    tracked_as: str = ""


class Tracker(Protocol):
    """Is told what a run measures and writes."""

    def start(self, launch: Launch) -> str:
        """Begins, or goes on with the run that is `launch.tracked_as`; returns its name there, to be kept with the run."""

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Numbers by name, of a `kind`: "train", "eval" and "hook" in the order of steps; "test", at the end, of the best step."""

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sample texts of a step: rows with "prompt" and "text", and of those at the end, of the best step, "selected"."""

    def close(self, status: str) -> None:
        """Sends what is left; `status`: FINISHED, STOPPED or FAILED."""


class Guarded:
    """A tracker that neither disturbs the run nor holds it up: it works in a thread of its own, and of what it raises the first is
    said, after which it is left alone until the next launch.

    It is not told what it was told by an earlier launch, which a run that was killed computes again, to the same bits.
    """

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None], told: Mapping[str, int]):
        """`told`: for each kind, the last step that it was told of."""
        self._name, self._tracker, self._say, self._told = name, tracker, say, dict(told)
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def start(self, launch: Launch, keep: Callable[[str], None]) -> None:
        """As `Tracker.start`; `keep` is called with what that gives, in the tracker's thread."""
        self._queue.put(lambda: keep(self._tracker.start(launch)))

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        if self._is_new(step, kind):
            self._queue.put(lambda: self._tracker.scalars(step, kind, values))

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._is_new(step, text_kind(rows[0])):
            self._queue.put(lambda: self._tracker.texts(step, rows))

    def close(self, status: str, seconds: float = PATIENCE) -> None:
        """As `Tracker.close`; waits for that at most so many seconds, and says where they were not enough."""
        self._queue.put(lambda: self._tracker.close(status))
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"log.trackers: {self._name} has not sent everything in {seconds:.0f} s, and is not waited for")

    def _is_new(self, step: int, kind: str) -> bool:
        return step > self._told.get(kind, -1)

    def _work(self) -> None:
        alive = True
        while (call := self._queue.get()) is not None:
            try:
                if alive:
                    call()
            except BaseException as e:  # some end the process where they cannot go on
                alive = False
                reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
                self._say(
                    f"log.trackers: {self._name} failed: {reason[:300]}\nThe run goes on without it, and metrics.jsonl has all"
                )


def text_kind(row: Mapping[str, Any]) -> str:
    """The kind that sample texts are told apart by: those of the end are of the best step, which may be one before."""
    return "selected sample" if row.get("selected") else "sample"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"section.name": value}, with "init.from" as users write it."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + ("from" if key == "from_" else key)
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
