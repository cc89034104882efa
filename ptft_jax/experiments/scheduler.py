"""A plan carried out: what can be done is begun, what fails takes its descendants along, and the rest goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ptft_jax.errors import UserError, few
from ptft_jax.experiments import plan
from ptft_jax.experiments.executors.base import Executor, Outcome, Task
from ptft_jax.experiments.plan import Step
from ptft_jax.experiments.store import RESULTS, Store, seen_from
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import files

_WAIT = 0.2  # seconds until signals are looked at again
_WRITE = 1.0  # seconds between two states that are written while all goes well
_LEAVE = 600.0  # seconds that what runs may take to save, where the experiment cannot go on
_FRESH = 5.0  # seconds after which what a node reads is looked at again before it begins
_PAUSE = 0.5  # seconds until what was killed is begun again, twice as many each time: what killed it may last
_AGAIN = ("killed", "interrupted")  # what goes on where it was

# How nodes ended, by name, as `Scheduler.carry_out` returns it -> what is to be done beside them.
Further = Callable[[dict[str, dict[str, Any]]], Sequence[Step]]


class Stopped(Exception):
    """The experiment was asked to leave; launching it again continues it. `status` is the exit status that says so."""

    def __init__(self, status: int):
        super().__init__("interrupted" if status == 130 else "terminated")
        self.status = status


class Scheduler:
    """One launch of a plan."""

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        executor: Executor,
        reporter: Reporter,
        retries: int = 2,
        halve: bool = False,
        further: Further | None = None,
    ):
        """
        Args:
          retries: how often a node is begun again whose process was ended by somebody else.
          halve: a run that has not enough memory is begun again with micro-batches of half the rows, while these can be divided.
          further: asked whenever all have ended, of how they did: more steps, until there are none.
        """
        self._halve, self._micro_batches = halve, dict[str, int]()
        self._store, self._executor, self._reporter, self._retries = store, executor, reporter, retries
        self._further = further
        self._steps: dict[str, Step] = {}
        self._folders: dict[str, pathlib.Path] = {}
        self._attempts: dict[str, int] = {}
        self._needs: dict[str, list[str]] = {}
        self._status: dict[str, dict[str, Any]] = {}
        for step in steps:
            self._add(step)
        self._planned = time.monotonic()
        self._pauses: dict[str, float] = {}  # until when a node waits that was killed
        self._written, self._noted, self._unwritten = 0.0, -1, False

    def _add(self, step: Step) -> str:
        name = step.node.name
        self._steps[name], self._folders[name], self._attempts[name] = step, step.folder, 0
        self._needs[name] = [*step.node.parents(), *([step.same_as] if step.same_as else [])]
        return name

    def _more(self, room: int) -> list[str]:
        """Nodes that are added, while others go on at most `room` of them."""
        if self._further is None or len(self._status) < len(self._steps):
            return []
        return [self._add(step) for step in self._further(self._outcomes())]

    def _open(self) -> bool:
        """Whether `_more` may still add some."""
        return self._further is not None

    def _expected(self) -> int:
        """How many nodes there are to be, as far as that is known."""
        return len(self._steps)

    def carry_out(self) -> dict[str, dict[str, Any]]:
        """How each node ended, by name in the plan's order: {"status": "finished", "diverged", "failed", "out_of_memory", "killed" or
        "skipped", in a search also "pruned", "plan", "folder", "message", "attempts", "seconds"}; also written as state.json.

        Raises:
          Stopped: SIGTERM or Ctrl-C arrived; what was begun has saved and left.
        """
        bar, shown = self._bar(), self._expected()
        waiting, running = self._waiting(), set[str]()
        look = 0.0  # when there may be something to begin: after an end, or a pause
        with _listening() as asked:
            try:
                while True:
                    if not asked.signals and time.monotonic() >= look:
                        waiting, look = self._begin(waiting, running, asked)
                    if not asked.signals and (more := self._more(self._executor.slots - len(running) - len(waiting))):
                        waiting, look = [*waiting, *more], 0.0
                        if self._expected() != shown:
                            self._reporter.finish(bar)
                            bar, shown = self._bar(), self._expected()
                        continue
                    self._reporter.advance(bar, len(self._status), "")
                    if not running and (asked.signals or not waiting):
                        break
                    asked.pass_on(self._executor)
                    ended = self._executor.ended(_WAIT)
                    if ended is not None:
                        name, outcome = ended
                        running.discard(name)
                        look = 0.0
                        if self._end(name, outcome, asked):
                            waiting.insert(0, name)
                    self._write(time.monotonic() - self._written > _WRITE)
            except Exception:
                self._leave(running)
                raise
            finally:
                self._executor.close()
                self._write(True)
                self._reporter.finish(bar)
            left = waiting or self._open() or any(s["status"] == "interrupted" for s in self._status.values())
            if asked.signals and left:
                raise Stopped(128 + asked.signals[0])
        return self._outcomes()

    def _bar(self) -> int | None:
        return self._reporter.start(self._store.folder.name, self._expected(), len(self._status))

    def _outcomes(self) -> dict[str, dict[str, Any]]:
        return {name: self._status[name] for name in self._steps}

    def _leave(self, running: set[str]) -> None:
        """Lets what runs save and leave, where the experiment itself cannot go on."""
        self._executor.stop()
        deadline = time.monotonic() + _LEAVE
        while running and time.monotonic() < deadline:
            ended = self._executor.ended(_WAIT)
            running.discard(ended[0] if ended else "")

    def _begin(self, waiting: list[str], running: set[str], asked: _Asked) -> tuple[list[str], float]:
        """Begins what can be, as far as there is room; returns what still waits, and when a pause of some of that is over."""
        left, soonest, now = list[str](), math.inf, time.monotonic()
        for number, name in enumerate(waiting):
            if len(running) >= self._executor.slots:
                return left + waiting[number:], soonest
            step, needs = self._steps[name], self._needs[name]
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
            elif self._pauses.get(name, 0.0) > now:
                soonest = min(soonest, self._pauses[name])
                left.append(name)
            elif len(ends) == len(needs) and not asked.signals:
                self._start(name, running, asked)
            else:
                left.append(name)
        return left, soonest

    def _start(self, name: str, running: set[str], asked: _Asked) -> None:
        self._attempts[name] += 1
        running.add(name)
        try:
            self._check_unchanged(self._steps[name])
            self._executor.start(self._task(self._steps[name]))
        except Exception as e:  # also no memory for another process, no room for its log
            running.discard(name)
            self._end(name, Outcome("failed", f"it could not be begun: {e}"), asked)

    def _check_unchanged(self, step: Step) -> None:
        """Raises UserError where what a node reads is no longer what it was planned, and would be recorded, with."""
        if step.node.kind == "call" or time.monotonic() - self._planned < _FRESH:
            return
        if changes := plan.changed(step, {name: other.identity for name, other in self._steps.items()}):
            raise UserError(f"since it was planned: {few(changes, 3)}; the next launch looks anew")

    def _task(self, step: Step) -> Task:
        name = step.node.name
        return Task(
            name=name,
            kind=step.node.kind,
            folder=str(step.folder),
            settings=self._settings(step),
            fingerprint=step.identity.fingerprint,
            identity=step.identity.as_dict(),
            log=str(self._store.log(name)),
            importable=[os.path.abspath(folder) for folder in sys.path],
        )

    def _settings(self, step: Step) -> dict[str, Any]:
        settings = step.settings(self._folders)
        if count := self._micro_batches.get(step.node.name):
            config = settings["config"]
            settings["config"] = {**config, "training": {**config["training"], "micro_batches": count}}
        return settings

    def _halved(self, name: str) -> str:
        """Has a run begun again that had not enough memory with half the rows at a time, and says so; "" where that cannot be."""
        node = self._steps[name].node
        if not self._halve or node.kind != "run":
            return ""
        config = node.settings["config"]
        rows = config["data"]["batch_size"]
        count = 2 * self._micro_batches.get(name, config["training"]["micro_batches"])
        if rows % count:
            return ""
        self._micro_batches[name] = count
        return f"{rows // count} rows at a time (training.micro_batches={count})"

    def _end(self, name: str, outcome: Outcome, asked: _Asked) -> bool:
        """Notes how a node ended; whether it is to be begun again."""
        if outcome.status == "interrupted" and self._executor.here and not asked.signals:
            asked.signals.append(signal.SIGTERM)  # which the run heard, in this process
        if outcome.status == "out_of_memory" and not asked.signals and (how := self._halved(name)):
            self._reporter.say(f"{name} {_said(outcome.status)}: {outcome.message}; it is begun again with {how}")
            return True
        if outcome.status in _AGAIN and asked.signals:
            outcome = dataclasses.replace(outcome, status="interrupted")
        elif outcome.status in _AGAIN and self._attempts[name] <= self._retries:
            self._pauses[name] = time.monotonic() + _PAUSE * 2 ** (self._attempts[name] - 1)
            self._reporter.say(f"{name}: {outcome.message}; it is begun again")
            return True
        elif outcome.status in _AGAIN:
            outcome = dataclasses.replace(outcome, status="killed")
        self._note(name, outcome.status, outcome.message, outcome.seconds)
        if outcome.status not in (*RESULTS, "pruned", "interrupted"):  # which `Stopped` says of all
            self._reporter.say(f"{name} {_said(outcome.status)}: {outcome.message} ({self._store.log(name)})")
        elif outcome.status in ("diverged", "pruned"):
            self._reporter.say(f"{name} {_said(outcome.status)}: {outcome.message}")
        return False

    def _note(self, name: str, status: str, message: str, seconds: float = 0.0) -> None:
        step = self._steps[name]
        self._status[name] = {
            "status": status,
            "plan": step.action,
            "reason": step.reason,
            "folder": seen_from(self._store.folder, step.folder),
            "message": message,
            "attempts": self._attempts[name],
            "seconds": seconds,
        }

    def _write(self, now: bool) -> None:
        if not now or len(self._status) == self._noted:
            return
        self._written = time.monotonic()
        try:
            files.write_json(self._store.state, {"nodes": self._status, "waiting": self._waiting()})
            self._noted = len(self._status)
        except (OSError, UserError) as e:  # what nodes come to is recorded by themselves
            if not self._unwritten:
                self._reporter.say(f"how nodes ended is not written down: {e}")
            self._unwritten = True

    def _waiting(self) -> list[str]:
        return [name for name in self._steps if name not in self._status]


def _said(status: str) -> str:
    return {
        "killed": "was killed",
        "pruned": "was pruned",
        "skipped": "was skipped",
        "out_of_memory": "had not enough memory",
    }.get(status, status)


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
