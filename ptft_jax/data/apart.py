"""A function in a process of its own, which is ended when a call takes too long or too much."""

from __future__ import annotations

import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ptft_jax.data.processes import end_with_parent

_START = 120.0  # seconds that a process may take to begin: it imports the function's module


class Lost(Exception):
    """A call has no result: it took too long, or its process ended; the message says which."""


class Unmade(Exception):
    """The function cannot be made in a process of its own; the message says why."""


class Unsent(Unmade):
    """Likewise, since what makes it cannot be sent to another process (pickled)."""


class Apart:
    """A function in a process that begins with the first call, and again after one that took too long or ended it."""

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any):
        """`make(*arguments)` gives the function, in the process; what it raises is told. All of these can be pickled."""
        self._made_of = (make, arguments)
        self._process: Any = None

    def called(self, seconds: float, *given: Any) -> Any:
        """What the function returns, which raises nothing itself. Raises Lost; Unmade, and what cannot be pickled of `given`."""
        pipe = self._started()
        try:
            pipe.send(given)
            if not pipe.poll(seconds):
                self.close()
                raise Lost(f"it took more than {seconds:g} seconds")
            return pipe.recv()
        except (EOFError, OSError) as e:
            self.close()
            raise Lost("it ended without a result") from e

    def _started(self) -> Connection:
        if self._process is None or not self._process.is_alive():
            self.close()
            context = multiprocessing.get_context("spawn")  # not forked: see `ptft_jax.data.processes`
            self._pipe, theirs = context.Pipe()
            try:
                self._process = context.Process(target=_serve, args=(theirs, *self._made_of), daemon=True)
                self._process.start()
            except Exception as e:  # what cannot be pickled raises this and that
                self._process = None
                raise Unsent(str(e)) from e
            theirs.close()
            self._finalizer = weakref.finalize(self, _end, self._process, self._pipe)
            try:
                problem = self._pipe.recv() if self._pipe.poll(_START) else "it takes too long"
            except EOFError:
                problem = "its process ended"
            if problem:
                self.close()
                raise Unmade(problem)
        return self._pipe

    def close(self) -> None:
        """Ends the process, where there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = None


def _serve(pipe: Connection, make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    os.dup2(2, 1)  # what a function prints is no output of a command
    try:
        function = make(*arguments)
    except BaseException as e:
        pipe.send(f"{type(e).__name__}: {e}")
        return
    pipe.send("")
    while True:
        pipe.send(function(*pipe.recv()))


def _end(process: Any, pipe: Connection) -> None:
    process.kill()
    process.join()
    pipe.close()
