"""A run that does not go on any more: each process says where it is, and all end, to be begun again."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.runs.files import read_json, write_json
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.termination import STATUS

_COLLECT = 10.0  # seconds that what others write may take to be seen


class Watch:
    """Ends the process, with the status after SIGTERM, where nothing has moved for some time: a step, a batch of an evaluation, a part of
    a sample. Where there are several, each writes where it is into the workdir, and process 0 says it of all. The processes move equally
    often, so that those that moved least are where it hangs.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        seconds: float,
        say: Callable[[str], None],
        end: Callable[[], None] | None = None,
    ):
        """
        Args:
          seconds: after which nothing is taken to move any more, among them what a compilation takes; 0 = never.
          say: is told, by process 0.
          end: what is done then, in the place of ending the process.
        """
        self._here, self._seconds, self._say, self._end = Workdir(workdir), seconds, say, end or _leave
        self._moves, self._at, self._since = 0, "its beginning", time.monotonic()
        self._over = threading.Event()
        self._main = 0  # the thread that is watched, see `watching`

    def moved(self, at: str = "") -> None:
        """Something has moved; `at`: where it is now, for people."""
        self._moves, self._at, self._since = self._moves + 1, at or self._at, time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A context in which it is looked at."""
        if not self._seconds:
            yield
            return
        self._main = threading.get_ident()
        self._file(jax.process_index()).unlink(missing_ok=True)
        self._since = time.monotonic()
        thread = threading.Thread(target=self._look, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _file(self, process: int) -> pathlib.Path:
        return self._here.hung / f"process-{process}.json"

    def _look(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._since > self._seconds:
                self._tell()
                self._end()
                return

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._main)
        stack = traceback.extract_stack(frame) if frame else []
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "moves": self._moves,
            "at": self._at,
            "seconds": round(time.monotonic() - self._since, 1),
            "stack": [f"{one.filename}:{one.lineno} {one.name}" for one in stack],
        }
        number = jax.process_index()
        try:
            self._here.hung.mkdir(exist_ok=True)
            write_json(self._file(number), mine)
            with self._file(number).with_suffix(".txt").open("w", encoding="utf-8") as f:
                faulthandler.dump_traceback(f, all_threads=True)
        except (OSError, UserError) as e:  # the file system is what hangs, or is full
            print(f"process {number}: {e}\n{''.join(traceback.format_list(stack))}", file=sys.stderr, flush=True)
        if number == 0:
            if jax.process_count() > 1:
                time.sleep(_COLLECT)
            self._say(self._said(mine))

    def _said(self, mine: dict[str, Any]) -> str:
        found = {0: mine}
        for process in range(1, jax.process_count()):
            try:
                found[process] = read_json(self._file(process))
            except (OSError, UserError):
                continue
        lines = [
            f"nothing has moved for {self._seconds:g} s; all processes end, and the same command goes on from the last checkpoint"
        ]
        for process in range(jax.process_count()):
            if process not in found:
                lines.append(f"  process {process} says nothing: its machine, or the way to its folder, may be gone")
        least = min(one["moves"] for one in found.values())
        for process, one in sorted(found.items(), key=lambda item: (item[1]["moves"], item[0])):
            behind = (
                ", behind the others"
                if one["moves"] == least and any(o["moves"] > least for o in found.values())
                else ""
            )
            lines.append(f"  process {process} on {one['host']} is at {one['at']}{behind}:")
            lines += [f"    {line}" for line in one["stack"][-4:]]
        lines.append(f"  whole stacks: {self._here.hung}")
        return "\n".join(lines)


def _leave() -> None:
    if processes.joined():
        processes.abandon(STATUS)
    os._exit(STATUS)
