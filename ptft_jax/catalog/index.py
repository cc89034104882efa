"""An index of the runs below a folder, in SQLite: what has not changed since it was last looked at is not read again."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from ptft_jax.catalog import facts
from ptft_jax.catalog.where import Condition
from ptft_jax.data import cache
from ptft_jax.runs.workdir import Workdir

_VERSION = 1  # changes with what is kept of a run
_MARK = Workdir(pathlib.Path()).config.name
_WAIT = 10.0  # seconds for another process that writes the index


class Index:
    """The runs below a folder, as they are when it is opened. A context manager."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._database = _opened(cache.root() / "runs" / f"{cache.digest('runs', os.path.realpath(folder))}.sqlite")
        try:
            self._refresh()
        except sqlite3.OperationalError:  # no space, or another's: what cannot be kept is still listed
            self._database.close()
            self._database = _prepared(sqlite3.connect(":memory:"))
            self._refresh()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._database.execute("SELECT count(*) FROM runs").fetchone()[0]

    def names(self) -> list[str]:
        """What is known of some run, by name."""
        return [name for (name,) in self._database.execute("SELECT name FROM names ORDER BY name")]

    def rows(
        self, columns: Sequence[str], where: Condition | None = None, sort: Sequence[tuple[str, bool]] = ()
    ) -> list[dict[str, Any]]:
        """What is known of the runs for which `where` holds, by `columns`, None of what a run has not.

        Args:
          sort: (name, whether the largest come first), the most important one first; runs that lack it come last. Then by name.
        """
        values: list[Any] = [_place(name) for name in columns]
        text = f"SELECT {', '.join(['json_extract(facts, ?)'] * len(columns)) or '1'} FROM runs"
        if where is not None:
            text += f" WHERE {where.sql}"
            values += where.values
        text += " ORDER BY "
        for name, descending in sort:
            text += f"json_extract(facts, ?) IS NULL, json_extract(facts, ?) {'DESC' if descending else 'ASC'}, "
            values += [_place(name)] * 2
        found = self._database.execute(text + "path", values)
        return [dict(zip(columns, row)) for row in found]

    def _refresh(self) -> None:
        known = {
            path: (stamp, done) for path, stamp, done in self._database.execute("SELECT path, stamp, done FROM runs")
        }
        there, fresh = set(), []
        root = os.path.join(self.folder, "")
        for place in runs(self.folder):
            name = place.removeprefix(root) or "."
            there.add(name)
            stamp = facts.stamp(place)
            if known.get(name) == (stamp, 1):
                continue
            path = pathlib.Path(place)
            found = {"name": name, **facts.of(path)}
            done = "state" in found
            if not done:
                found["state"] = facts.state(path)
            if found.get("parent"):
                found["parent"] = self._seen(found["parent"])
            fresh.append((name, stamp, int(done), json.dumps(found, ensure_ascii=False)))
        gone = [(name,) for name in known if name not in there]
        with self._database:
            self._database.executemany("DELETE FROM runs WHERE path = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", fresh)
            keys = "INSERT OR IGNORE INTO names SELECT j.key FROM runs, json_each(runs.facts) AS j"
            if gone:
                self._database.execute("DELETE FROM names")
                self._database.execute(keys)
            else:
                self._database.executemany(f"{keys} WHERE runs.path = ?", [(path,) for path, *_ in fresh])

    def _seen(self, reference: str) -> str:
        """A run's parent as seen from the folder, where it is below it."""
        root = f"{os.path.realpath(self.folder)}{os.sep}"
        real = os.path.realpath(reference) if os.path.isabs(reference) else reference
        return real.removeprefix(root)


def _place(name: str) -> str:
    return f'$."{name}"'


def _opened(path: pathlib.Path) -> sqlite3.Connection:
    """The database at a path, created again where it is of another version or damaged; in memory where nothing can be written."""
    for attempt in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _prepared(sqlite3.connect(path, timeout=_WAIT))
        except (sqlite3.DatabaseError, OSError):
            if attempt == 0:
                with contextlib.suppress(OSError):
                    path.unlink()
    return _prepared(sqlite3.connect(":memory:"))


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        with database:
            database.execute("DROP TABLE IF EXISTS runs")
            database.execute("CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT, done INTEGER, facts TEXT)")
            database.execute("DROP TABLE IF EXISTS names")
            database.execute("CREATE TABLE names (name TEXT PRIMARY KEY)")
            database.execute(f"PRAGMA user_version = {_VERSION}")
    return database


def runs(folder: pathlib.Path) -> Iterator[str]:
    """The folders of runs below a folder, itself among them; a run's own folders are not looked into, nor links and hidden ones."""
    folders = [str(folder)]
    while folders:
        inside, here = [], folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name == _MARK and entry.is_file():
                        inside = [here]
                        break
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        inside.append(entry.path)
                else:
                    folders += inside
                    continue
        except (PermissionError, FileNotFoundError):  # not ours to read, or gone meanwhile
            continue
        yield here
