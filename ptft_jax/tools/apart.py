"""Tools in processes of their own, which are ended when a call takes too long or too much."""

from __future__ import annotations

import multiprocessing
import os
import signal
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.data.processes import end_with_parent
from ptft_jax.errors import UserError
from ptft_jax.tools.base import Failed, Function, Tool, said

_START = 120.0  # seconds that a process may take to begin: it imports the tool's module


def made(place: Any, settings: Mapping[str, Any]) -> Tool:
    """The tool of an entry of a table (`ptft_jax.config.tools.ToolSpec.tool`)."""
    found = located(place)
    return found(**settings) if isinstance(found, type) else Function(found)


class Apart:
    """A tool in a process of its own, which begins with the first call, and again after one that took too long or ended it."""

    def __init__(self, name: str, place: Any, settings: Mapping[str, Any], seconds: float, characters: int):
        self._name, self._seconds = name, seconds
        self._arguments = (place, dict(settings), characters)
        self._process: Any = None

    def said(self, text: tuple[str, ...], arguments: Mapping[str, Any]) -> str:
        """As of `ptft_jax.tools.base.said`; of a longer text at least its beginning. Raises UserError where the tool cannot be made."""
        pipe = self._started()
        try:
            pipe.send((text, dict(arguments)))
            if not pipe.poll(self._seconds):
                self.close()
                raise Failed(f"it took more than {self._seconds:g} seconds")
            fine, found = pipe.recv()
        except (EOFError, OSError) as e:
            self.close()
            raise Failed("it ended without a result") from e
        if not fine:
            raise Failed(found)
        return found

    def _started(self) -> Connection:
        if self._process is None or not self._process.is_alive():
            self.close()
            context = multiprocessing.get_context("spawn")  # not forked: see `ptft_jax.data.processes`
            self._pipe, theirs = context.Pipe()
            try:
                self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
                self._process.start()
            except Exception as e:  # what cannot be pickled raises this and that
                self._process = None
                raise UserError(
                    f"config.tools.use: {self._name!r} cannot be called in a process of its own ({e}): name it as 'package.module:name', or "
                    "make it a class with bounded = True"
                ) from e
            theirs.close()
            self._finalizer = weakref.finalize(self, _end, self._process, self._pipe)
            try:
                problem = self._pipe.recv() if self._pipe.poll(_START) else "it takes too long"
            except EOFError:
                problem = "its process ended"
            if problem:
                self.close()
                raise UserError(f"config.tools.use: {self._name!r} cannot be made in a process of its own: {problem}")
        return self._pipe

    def close(self) -> None:
        """Ends the process, where there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = None


def _serve(pipe: Connection, place: Any, settings: Mapping[str, Any], characters: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    os.dup2(2, 1)  # what a tool prints is no output of a command
    try:
        tool = made(place, settings)
    except BaseException as e:
        pipe.send(f"{type(e).__name__}: {e}")
        return
    pipe.send("")
    while True:
        text, arguments = pipe.recv()
        try:
            pipe.send((True, said(tool, text, arguments)[: characters + 1]))
        except Failed as e:
            pipe.send((False, str(e)[: characters + 1]))


def _end(process: Any, pipe: Connection) -> None:
    process.kill()
    process.join()
    pipe.close()
