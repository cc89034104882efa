"""SIGTERM: the first asks a run to save and leave, which it does as soon as it can; a second ends the process at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

from ptft_jax.parallel import processes

STATUS = 128 + signal.SIGTERM


class Terminated(Exception):
    """The run was asked to leave while it did something that can be done again."""


class Termination:
    """A context in which SIGTERM sets `asked`. Does nothing but in the main thread, where signals arrive.

    A handler written in Python runs only when the main thread comes back from what it waits for, such as other processes.
    So the signals are also told to a thread, by what Python writes to a socket when one arrives (`signal.set_wakeup_fd`).

    Where the handler before it has a list `signals` of what it heard, as that of an experiment whose run this is, what arrived before
    the context is heard in it, and what arrived within it is told to that handler after it.
    """

    def __init__(self) -> None:
        self._asked, self._heard = threading.Event(), False
        self._main = threading.current_thread() is threading.main_thread()

    @property
    def asked(self) -> bool:
        """Whether SIGTERM arrived."""
        return self._asked.is_set()

    def checking(self) -> Callable[[], None]:
        """A function to be called between parts of what can be done again, equally often by all processes of a run. It raises
        Terminated, in all of them, after SIGTERM of one."""
        agreed = processes.Agreed()

        def check() -> None:
            if agreed(int(self.asked)):
                raise Terminated

        return check

    def __enter__(self) -> Termination:
        if self._main:
            self._read, self._write = socket.socketpair()
            self._write.setblocking(False)
            self._handler = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
            if getattr(self._handler, "signals", None):
                self._asked.set()
            self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            self._listener = threading.Thread(target=self._listen, name="sigterm", daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.set_wakeup_fd(self._before)
            signal.signal(signal.SIGTERM, self._handler)
            self._write.close()  # ends the thread
            self._listener.join()
            if self.asked and getattr(self._handler, "signals", None) == []:
                self._handler.signals.append(signal.SIGTERM)  # type: ignore[union-attr]

    def _listen(self) -> None:
        with self._read:
            while received := self._read.recv(1024):
                for _ in range(received.count(signal.SIGTERM)):
                    if self._heard:
                        processes.leave_watch()
                        os._exit(STATUS)
                    self._heard = True
                    self._asked.set()
