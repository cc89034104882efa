"""What an executor is given, gives back, and has to offer. All of it is of JSON's types: it may go to another machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Task:
    """A node to be carried out by `ptft_jax.experiments.work.carry_out`.

    Attributes:
      folder: its own.
      settings: the node's, in which other nodes are folders.
      fingerprint, identity: what is recorded of it.
      log: the file that what is said goes to.
      importable: folders whose modules the process that asks can import.
      trial: of a run that is a trial of a search, what `ptft_jax.experiments.trial.Trial` is made of.
    """

    name: str
    kind: str
    folder: str
    settings: Mapping[str, Any]
    fingerprint: str
    identity: Mapping[str, Any]
    log: str
    importable: Sequence[str] = ()
    trial: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a node ended.

    Attributes:
      status: "finished"; "diverged", whose loss is not finite, which is a result; "pruned", which a search ended where it was;
        "interrupted", which goes on when it is carried out again; "killed", of which nobody knows why; "out_of_memory"; "failed";
        "refused", as every other trial of the search would be.
      message: why, for people.
      values: what it came to, beside what is in its folder.
    """

    status: str
    message: str = ""
    values: Any = None
    seconds: float = 0.0


class Executor(Protocol):
    """Where nodes are carried out. Nothing that they come to depends on it.

    Attributes:
      slots: how many at a time.
      here: whether they share this process, and the signals that it gets.
    """

    slots: int
    here: bool

    def start(self, task: Task) -> None:
        """Begins a task; at most `slots` are begun and not yet given back. What it raises is that of a task that failed."""

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        """(name, outcome) of one that has ended; None where none has within so many seconds."""

    def stop(self) -> None:
        """Asks all that is begun to save and leave. What has left is given by `ended`."""

    def close(self) -> None:
        """Gives up what the executor holds. Nothing that it began goes on afterwards."""
