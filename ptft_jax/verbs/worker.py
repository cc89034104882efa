"""A process that carries out one node of an experiment (`ptft_jax.experiments.executors.local`): its task is a line of JSON on
standard input, and what it came to is written to the file that is named on the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading


def main() -> None:
    # SLURM sends it to all processes of a job; the one that has this one's task asks this one to leave.
    signal.signal(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"), signal.SIG_IGN)
    task = json.loads(_line(0))
    threading.Thread(target=_leave_with, args=(0,), daemon=True).start()
    outcome = carry_out(task)
    from ptft_jax.runs import files

    files.write_json(pathlib.Path(sys.argv[1]), outcome)


def carry_out(task: dict) -> dict:
    """`ptft_jax.experiments.work.carry_out` in a fresh process, of JSON's types."""
    from ptft_jax.config import files
    from ptft_jax.experiments import work
    from ptft_jax.experiments.executors.base import Task
    from ptft_jax.verbs.command import prepare_jax

    files.make_importable(pathlib.Path.cwd(), files.shipped(), *map(pathlib.Path, task["importable"]))
    if task["kind"] != "call":
        prepare_jax()
    return dataclasses.asdict(work.carry_out(Task(**task)))


def _line(descriptor: int) -> bytes:
    """A line, and nothing of what follows: no buffer is left behind that a thread might wait in."""
    read = b""
    while not read.endswith(b"\n"):
        if not (more := os.read(descriptor, 1 << 16)):
            sys.exit("the process that has this one's task is gone")
        read += more
    return read


def _leave_with(descriptor: int) -> None:
    """Asks this process to save and leave when the one at the other end is gone."""
    while os.read(descriptor, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
