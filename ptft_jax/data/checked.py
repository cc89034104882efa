"""Digests of the files of a folder, so that a later start reads only those that have changed, or were not read for long."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import Any

from ptft_jax.data import cache
from ptft_jax.data.records import files, known
from ptft_jax.errors import UserError

AGAIN = 7 * 86_400.0  # seconds after which a file is read though nothing says that it changed: storage may lose bits


class Digests:
    """SHA-256 of files in a folder, kept in one file of the cache.

    A file whose size, times of change (of content and of inode, in ns), inode and device are what they were when it was last read, within
    the last `AGAIN` seconds, is taken for unchanged. Any number of threads may ask.
    """

    def __init__(self, folder: pathlib.Path):
        self._path = cache.root() / "digests" / f"{cache.digest('checked-1', os.path.abspath(folder))}.json"
        self._found: dict[str, list[Any]] = known.read(self._path, {})
        self._changed = False

    def sha256(self, path: pathlib.Path) -> str:
        """Hexadecimal, of a file of the folder."""
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        noted = self._found.get(path.name)
        if noted is not None and noted[:-2] == stamp and 0 <= time.time() - noted[-1] < AGAIN:
            return noted[-2]
        found = cache.sha256(path)
        if files.is_settled(stat):  # else a change just after this would not be seen in its times
            self._found[path.name] = [*stamp, found, time.time()]
            self._changed = True
        return found

    def save(self) -> None:
        """Keeps what was read, where the cache can be written to: without it, all is read again. The last of several processes
        stays: what each notes is true."""
        if self._changed:
            with contextlib.suppress(OSError, UserError):
                known.write(self._path, self._found)
            self._changed = False


def sha256(path: pathlib.Path) -> str:
    """Of one file, by `Digests` of its folder."""
    of = Digests(path.parent)
    found = of.sha256(path)
    of.save()
    return found
