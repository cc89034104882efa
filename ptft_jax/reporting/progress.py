"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0
_LOG_COLUMNS = 140
_NUMBER = re.compile(r"-|[-+]?\d[\d,.]*(e[-+]\d+)?( ± [\d,.]+)?( ?%)?")  # as people see them, or "-" for none


class Reporter:
    """Messages, tables and progress bars on standard error; standard output stays free for results."""

    def __init__(self, quiet: bool = False):
        # In a log file, tables are wider than the 80 columns that rich then assumes.
        width = None if sys.stderr.isatty() else _LOG_COLUMNS
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False, emoji=False, width=width)
        self._progress: Progress | None = None
        self._last_line = 0.0
        self._began: dict[int, tuple[int, float]] = {}  # bar -> where it was first seen, and when

    def __enter__(self) -> Reporter:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def active(self) -> bool:
        """Whether bars are being shown, by this context or one around it."""
        return self._progress is not None

    def say(self, text: str) -> None:
        """A message that stays."""
        self.console.print(text, markup=False)

    def start(self, name: str, total: int, done: int = 0) -> int | None:
        """A new bar; returns its id for `advance` and `finish`."""
        if self._progress is None:
            return None
        return self._progress.add_task(name, total=total, completed=done, note="")

    def advance(self, task: int | None, done: int, note: str) -> None:
        """Sets a bar's position and the text beside it."""
        if self._progress is None or task is None:
            return
        self._progress.update(task, completed=done, note=note)
        now = time.monotonic()
        if self.console.is_terminal:
            return
        bar = self._progress.tasks[self._progress.task_ids.index(task)]
        first, at = self._began.setdefault(task, (done, now))
        if now - self._last_line > _SECONDS_BETWEEN_LINES or done == bar.total:
            left = (bar.total - done) * (now - at) / (done - first) if done > first else 0.0
            self.say(f"{bar.description}  {done}/{bar.total:.0f}  {note}{f'  {_span(left)} left' if left else ''}")
            self._last_line = now

    def finish(self, task: int | None) -> None:
        """Removes a bar."""
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)

    def table(self, title: str, rows: list[dict]) -> None:
        """Rows of equal keys as a table."""
        self.console.print(as_table(title, rows))


def _span(seconds: float) -> str:
    """A time for people: "50 s", "7 min", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def print_table(rows: list[dict], width: int | None = None) -> None:
    """Rows of equal keys on standard output; `width` in columns, of the terminal where None."""
    Console(highlight=False, soft_wrap=True, markup=False, emoji=False, width=width).print(as_table("", rows))


def as_table(title: str, rows: list[dict]) -> Table:
    """A rich table, its cells as they are (no markup); numbers are right-aligned."""
    table = Table(title=Text(title) if title else None, title_justify="left")
    for key in rows[0]:
        numeric = all(isinstance(row[key], (int, float)) or _NUMBER.fullmatch(str(row[key])) for row in rows)
        table.add_column(Text(key), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown = (
            f"{v:,}" if isinstance(v, int) else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()
        )
        table.add_row(*map(Text, shown))
    return table
