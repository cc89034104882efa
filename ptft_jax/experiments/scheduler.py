"""A plan carried out: what can be done is begun, what fails takes its descendants along, and the rest goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ptft_jax.experiments.executors.base import Executor, Outcome, Task
from ptft_jax.experiments.plan import Step
from ptft_jax.experiments.store import RESULTS, Store
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import files

_WAIT = 0.2  # seconds until signals are looked at again
_WRITE = 1.0  # seconds between two states that are written while all goes well
_AGAIN = ("killed", "interrupted")  # what goes on where it was


class Stopped(Exception):
    """The experiment was asked to leave; launching it again continues it. `status` is the exit status that says so."""

    def __init__(self, status: int):
        super().__init__("interrupted" if status == 130 else "terminated")
        self.status = status


class Scheduler:
    """One launch of a plan."""

    def __init__(self, steps: Sequence[Step], store: Store, executor: Executor, reporter: Reporter, retries: int = 2):
        """`retries`: how often a node is begun again whose process was ended by somebody else."""
        self._steps = {step.node.name: step for step in steps}
        self._store, self._executor, self._reporter, self._retries = store, executor, reporter, retries
        self._folders = {name: step.folder for name, step in self._steps.items()}
        self._status: dict[str, dict[str, Any]] = {}
        self._attempts = dict.fromkeys(self._steps, 0)
        self._written = 0.0

    def carry_out(self) -> dict[str, dict[str, Any]]:
        """How each node ended, by name in the plan's order: {"status": "finished", "diverged", "failed", "out_of_memory", "killed" or
        "skipped", "plan", "folder", "message", "attempts", "seconds"}; also written as state.json.

        Raises:
          Stopped: SIGTERM or Ctrl-C arrived; what was begun has saved and left.
        """
        bar = self._reporter.start(self._store.folder.name, len(self._steps))
        waiting, running = list(self._steps), set[str]()
        with _listening() as asked:
            try:
                while waiting or running:
                    if not asked.signals:
                        waiting = self._begin(waiting, running, asked)
                    self._reporter.advance(bar, len(self._status), "")
                    if not running and (asked.signals or not waiting):
                        break
                    asked.pass_on(self._executor)
                    ended = self._executor.ended(_WAIT)
                    if ended is not None:
                        name, outcome = ended
                        running.discard(name)
                        if self._end(name, outcome, asked):
                            waiting.insert(0, name)
                    self._write(time.monotonic() - self._written > _WRITE)
            finally:
                self._executor.close()
                self._write(True)
                self._reporter.finish(bar)
            if asked.signals and (waiting or any(s["status"] == "interrupted" for s in self._status.values())):
                raise Stopped(128 + asked.signals[0])
        return {name: self._status[name] for name in self._steps}

    def _begin(self, waiting: list[str], running: set[str], asked: _Asked) -> list[str]:
        """Begins what can be, as far as there is room; returns what still waits."""
        left: list[str] = []
        for number, name in enumerate(waiting):
            if len(running) >= self._executor.slots:
                return left + waiting[number:]
            step = self._steps[name]
            needs = [*step.node.parents(), *([step.same_as] if step.same_as else [])]
            ends = {parent: self._status[parent]["status"] for parent in needs if parent in self._status}
            bad = [f"{parent} {_said(end)}" for parent, end in ends.items() if end != "finished"]
            if step.same_as and step.same_as in ends:
                other = self._status[step.same_as]
                self._note(name, other["status"], other["message"])
            elif step.action == "cached":
                assert step.kept is not None and step.kept.result is not None
                self._note(name, step.kept.result["status"], step.kept.result["message"])
            elif bad:
                self._note(name, "skipped", f"as {bad[0]}")
            elif len(ends) == len(needs) and not asked.signals:
                self._attempts[name] += 1
                running.add(name)
                self._executor.start(self._task(step))
            else:
                left.append(name)
        return left

    def _task(self, step: Step) -> Task:
        name = step.node.name
        return Task(
            name=name,
            kind=step.node.kind,
            folder=str(step.folder),
            settings=step.settings(self._folders),
            fingerprint=step.identity.fingerprint,
            identity=step.identity.as_dict(),
            log=str(self._store.log(name)),
        )

    def _end(self, name: str, outcome: Outcome, asked: _Asked) -> bool:
        """Notes how a node ended; whether it is to be begun again."""
        if outcome.status == "interrupted" and self._executor.here and not asked.signals:
            asked.signals.append(signal.SIGTERM)  # which the run heard, in this process
        if outcome.status in _AGAIN and asked.signals:
            outcome = dataclasses.replace(outcome, status="interrupted")
        elif outcome.status in _AGAIN and self._attempts[name] <= self._retries:
            self._reporter.say(f"{name}: {outcome.message}; it is begun again")
            return True
        elif outcome.status in _AGAIN:
            outcome = dataclasses.replace(outcome, status="killed")
        self._note(name, outcome.status, outcome.message, outcome.seconds)
        if outcome.status not in (*RESULTS, "interrupted"):  # which `Stopped` says of all
            self._reporter.say(f"{name} {_said(outcome.status)}: {outcome.message} ({self._store.log(name)})")
        elif outcome.status == "diverged":
            self._reporter.say(f"{name} diverged: {outcome.message}")
        return False

    def _note(self, name: str, status: str, message: str, seconds: float = 0.0) -> None:
        step = self._steps[name]
        self._status[name] = {
            "status": status,
            "plan": step.action,
            "reason": step.reason,
            "folder": _shown(step.folder, self._store.folder),
            "message": message,
            "attempts": self._attempts[name],
            "seconds": seconds,
        }

    def _write(self, now: bool) -> None:
        if now:
            self._written = time.monotonic()
            files.write_json(self._store.state, {"nodes": self._status, "waiting": self._waiting()})

    def _waiting(self) -> list[str]:
        return [name for name in self._steps if name not in self._status]


def _said(status: str) -> str:
    return {"killed": "was killed", "skipped": "was skipped", "out_of_memory": "had not enough memory"}.get(
        status, status
    )


def _shown(folder: pathlib.Path, root: pathlib.Path) -> str:
    """A folder, seen from the experiment's where it lies in it: both may be moved."""
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


class _Asked:
    """SIGTERM and SIGINT that arrived."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._passed = 0

    def __call__(self, number: int, _: object) -> None:
        self.signals.append(number)
        if signal.getsignal(signal.SIGTERM) is not self:  # a run in this process listens, which saves
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(self.signals) > 1:
            raise KeyboardInterrupt

    def pass_on(self, executor: Executor) -> None:
        """Tells the executor of each once."""
        if self._passed < len(self.signals):
            self._passed += 1
            executor.stop()


@contextlib.contextmanager
def _listening() -> Iterator[_Asked]:
    asked = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
