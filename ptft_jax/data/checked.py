"""Digests of the files of a folder, so that a later start reads only those that have changed, or were not read for long."""

from __future__ import annotations

import contextlib
import pathlib

from ptft_jax.data import cache
from ptft_jax.data.records import known
from ptft_jax.errors import UserError


class Digests(known.Known):
    """SHA-256 of files in a folder, as `Known` has digests, but that each is read again after a week: storage may lose bits."""

    again = 7 * 86_400.0

    def __init__(self, folder: pathlib.Path):
        super().__init__([str(folder)])

    def sha256(self, path: pathlib.Path) -> str:
        """Hexadecimal, of a file of the folder."""
        return self.of(path.name, path.stat(), lambda: cache.sha256(path))

    def save(self) -> None:
        """Keeps what was read, where the cache can be written to: without it, all is read again."""
        with contextlib.suppress(OSError, UserError):
            super().save()


def sha256(path: pathlib.Path) -> str:
    """Of one file, by `Digests` of its folder."""
    of = Digests(path.parent)
    found = of.sha256(path)
    of.save()
    return found
