"""What is known of the files of a source, so that a later start asks each only whether it has changed."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.data import cache
from ptft_jax.data.records import files, remote


class Known:
    """The digests of a source's files, in one file of the cache.

    A file whose size, times of change (of content and of inode, in ns), inode and device are what they were is taken for unchanged,
    and is not read; of one that differs in any the digest is made again. Any number of threads may ask.
    """

    again = math.inf  # seconds after which a file is read though nothing says that it changed

    def __init__(self, names: Sequence[str]):
        local = [os.path.abspath(os.path.expanduser(name)) for name in names if not remote.is_url(name)]
        self._path = cache.root() / "digests" / f"{cache.digest(type(self).__name__, '2', *local)}.json"
        self._found: dict[str, list[Any]] = read(self._path, {})
        self._changed = False

    def digest(self, path: pathlib.Path, name: str, stat: os.stat_result) -> str:
        """That of the file, whose `stat` this is. Raises UserError where it changes meanwhile."""
        return self.of(os.path.abspath(path), stat, lambda: files.read_digest(path, name))

    def of(self, key: str, stat: os.stat_result, make: Callable[[], str]) -> str:
        """The digest that `make` gives of the file with this `stat`, or gave before."""
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        known = self._found.get(key)
        if known is not None and known[:-2] == stamp and 0 <= time.time() - known[-1] < self.again:
            return known[-2]
        found = make()
        if files.is_settled(stat):  # else a change just after this would not be seen in its times
            self._found[key] = [*stamp, found, time.time()]
            self._changed = True
        return found

    def save(self) -> None:
        """Keeps what was found out. The last of several processes stays: what each notes is true."""
        if self._changed:
            write(self._path, self._found)
            self._changed = False


def read(path: pathlib.Path, missing: Any) -> Any:
    """JSON that `write` wrote; `missing` where there is none, or it is damaged."""
    try:
        digest, _, text = (cache.noted(path) or b"").partition(b"\n")
        return json.loads(text) if digest.decode() == cache.digest(text) else missing
    except ValueError:
        return missing


def write(path: pathlib.Path, value: Any) -> None:
    text = json.dumps(value).encode()
    cache.write_atomic(path, lambda temporary: temporary.write_bytes(cache.digest(text).encode() + b"\n" + text))
