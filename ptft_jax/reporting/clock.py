"""Where the time of a run went: every second belongs to exactly one part of its work."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# What a run spends its time on, in the order in which people are told. "trace" is tracing and lowering, "compile" compiling, or reading
# a compiled program from the cache, wherever they happen; what they take is no part of what they happen in. Runs of earlier
# versions have both as "compile".
PARTS = (
    "import", "data", "start", "trace", "compile", "steps", "input_wait", "evaluation", "samples", "saving", "other",
)  # fmt: skip
_COMPILING, _COMPILED = "/jax/core/compile/", "/jax/core/compile/backend_compile"  # beginnings of JAX's events


class Clock:
    """Counts the wall time of a run by PARTS, over all its launches: their sum is the whole, and none is negative.

    `with clock("evaluation"):` gives the time within to that part, less what a `with` inside of it takes for another.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, began: float | None = None):
        """`began`: when the launch began, by `now`; None = now. What was before this clock is "import"."""
        self._now, self._mark = now, now()
        self._seconds, self._open = dict.fromkeys(PARTS, 0.0), ["other"]
        self._before = dict.fromkeys(PARTS, 0.0)
        self._compiled: list[tuple[float, float]] = []  # (start, seconds) of what was traced or compiled
        self._thread = threading.get_ident()
        if began is not None:
            self._seconds["import"] = max(self._mark - began, 0.0)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """A context whose time belongs to `part`, one of PARTS."""
        if part not in self._seconds:
            raise ValueError(f"no part {part!r}: expected one of {', '.join(PARTS)}")
        self._charge()
        self._open.append(part)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Gives the time since the last call to what is open."""
        now = self._now()
        self._seconds[self._open[-1]] += now - self._mark
        self._mark = now

    @property
    def launch(self) -> float:
        """Seconds since this launch began."""
        self._charge()
        return sum(self._seconds.values())

    @property
    def by_part(self) -> dict[str, float]:
        """Seconds of each of PARTS up to now, over all launches."""
        self._charge()
        return {part: self._before[part] + self._seconds[part] for part in PARTS}

    def continues(self, before: Mapping[str, float]) -> None:
        """Adds what earlier launches took, as `by_part` had it."""
        for part, seconds in before.items():
            self._before[part if part in self._before else "other"] += seconds

    def compiled(self, seconds: float, part: str = "compile") -> None:
        """Moves the last so many seconds to `part`, "trace" or "compile", but what of them is there already: one function is traced,
        or compiled, within another."""
        self._charge()
        start = self._mark - seconds
        while self._compiled and self._compiled[-1][0] >= start:
            seconds -= self._compiled.pop()[1]
        # The events are timed by another clock, which may differ a little.
        moved = min(max(seconds, 0.0), self._seconds[self._open[-1]])
        self._compiled.append((start, self._mark - start))
        self._seconds[self._open[-1]] -= moved
        self._seconds[part] += moved

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A context in which what JAX traces and compiles in this thread counts as "trace" or "compile"."""
        import jax.monitoring

        def heard(event: str, duration_secs: float, **_: str | int) -> None:
            if event.startswith(_COMPILING) and threading.get_ident() == self._thread:
                self.compiled(duration_secs, "compile" if event.startswith(_COMPILED) else "trace")

        jax.monitoring.register_event_duration_secs_listener(heard)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(heard)


def process_began() -> float | None:
    """When this process was started, by `time.monotonic`; None where the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # field 22, after the name in parentheses
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.monotonic() - age if ticks and age >= 0 else None


def row(seconds: Mapping[str, float]) -> dict[str, Any]:
    """The parts as columns of a table, in the order of PARTS, and their sum; to milliseconds."""
    columns = {"seconds": sum(seconds.values()), **{name.replace("_", " "): took for name, took in seconds.items()}}
    return {name: round(took, 3) for name, took in columns.items()}


def split(seconds: Mapping[str, float]) -> str:
    """The parts in one line, the longest first, without those that took nothing: "steps 14.4 s (42 %), compile 9.1 s (26 %)"."""
    total = sum(seconds.values())
    parts = sorted((item for item in seconds.items() if round(item[1], 1)), key=lambda item: -item[1])
    return ", ".join(f"{part.replace('_', ' ')} {took:.1f} s ({took / total:.0%})" for part, took in parts)
