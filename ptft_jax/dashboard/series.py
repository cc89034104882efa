"""Metrics of runs as curves: what was appended to a file since it was last looked at is all that is read, and long curves are thinned."""

from __future__ import annotations

import collections
import json
import math
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

MOST = 400  # points of a curve
_KEPT = 64  # files
_NO_CURVES = ("step", "kind", "time")
Curve = list[tuple[float, float | None]]  # (step, value); None where it is not finite


class Series:
    """Curves of files of metrics. May be asked by several threads."""

    def __init__(self) -> None:
        self._files: collections.OrderedDict[pathlib.Path, _File] = collections.OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: pathlib.Path) -> dict[str, Curve]:
        """KIND/NAME -> its curve, of a file as it is now; {} where there is none. Lines that are no rows are left out."""
        with self._lock:
            file = self._files.pop(path, None) or _File()
            file.read(path)
            self._files[path] = file
            while len(self._files) > _KEPT:
                self._files.popitem(last=False)
            return {name: thinned(points) for name, points in sorted(file.curves.items())}


class _File:
    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self._place, self._inode = 0, -1

    def read(self, path: pathlib.Path) -> None:
        try:
            with open(path, "rb") as file:
                stat = os.fstat(file.fileno())
                if (
                    stat.st_ino != self._inode or stat.st_size < self._place
                ):  # another file: a run that went on has rewritten it
                    self.curves, self._place, self._inode = {}, 0, stat.st_ino
                file.seek(self._place)
                new = file.read()
        except FileNotFoundError:
            self.curves, self._place, self._inode = {}, 0, -1
            return
        whole = new.rpartition(b"\n")[0]  # a line that is being written is read when it is there
        self._place += len(whole) + 1 if whole else 0
        for line in whole.split(b"\n"):
            try:
                row = json.loads(line)
                step, kind = row["step"], row["kind"]
            except (ValueError, KeyError, TypeError):
                continue
            self._add(row, step, kind)

    def _add(self, row: dict[str, Any], step: float, kind: str) -> None:
        for name, value in row.items():
            if name not in _NO_CURVES and isinstance(value, (int, float)) and not isinstance(value, bool):
                known = value if math.isfinite(value) else None
                self.curves.setdefault(f"{kind}/{name}", []).append((step, known))


def thinned(points: Sequence[tuple[float, float | None]], most: int = MOST) -> Curve:
    """At most so many of the points: the first, the last, and of each part in between the least and the largest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    parts = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(parts):
        part = inner[number * len(inner) // parts : (number + 1) * len(inner) // parts]
        known = [place for place, (_, value) in enumerate(part) if value is not None] or [0]
        ends = {
            min(known, key=lambda place: part[place][1] or 0.0),
            max(known, key=lambda place: part[place][1] or 0.0),
        }
        kept += [part[place] for place in sorted(ends)]
    return [*kept, points[-1]]
