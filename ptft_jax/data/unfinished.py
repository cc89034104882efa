"""What has been tokenized of a split whose tokenization is not finished, kept in the cache: a process that is killed does not lose
it, and the next one goes on from there.

CACHE/unfinished/KEY/part-START-STOP/   a store of records START to STOP
CACHE/unfinished/KEY/text-INDEX-N       ids of the long text that is record INDEX: arrays N * GROUP to (N + 1) * GROUP
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator

import numpy as np

from ptft_jax.data import cache, store
from ptft_jax.errors import UserError

GROUP = 16  # arrays of ids in a file, each of about a million characters


class Unfinished:
    """The parts of a store that is being made. Several processes may add to them."""

    def __init__(self, key: str, of: str = ""):
        """
        Args:
          key: of the store.
          of: what it is made from, for people.
        """
        self.folder, self._of = cache.root() / "unfinished" / key, of

    def begun(self) -> bool:
        """Whether there is something of it."""
        return cache.used(self.folder, self._of)

    def begin(self) -> None:
        """Has what follows kept. Raises UserError where it cannot be written."""
        with cache.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        cache.used(self.folder, self._of)

    def part(self, which: range) -> pathlib.Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{which.start}-{which.stop}"

    def has(self, which: range) -> bool:
        """Whether a part is there, and is what was written."""
        try:
            store.load(self.part(which))
        except store.Damaged:
            shutil.rmtree(self.part(which), ignore_errors=True)
        except UserError:  # not there
            pass
        else:
            return True
        return False

    def add(self, which: range, fill: Callable[[pathlib.Path], object]) -> None:
        """Has a part made, in a folder that `fill` is given. Where another process was faster, its part stays: it is equal."""
        temporary = self.folder / f".{uuid.uuid4().hex}"
        with cache.writing(self.folder):
            try:
                fill(temporary)
                try:
                    temporary.rename(self.part(which))
                except OSError:
                    if not self.has(which):
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def text(self, index: int, made: Callable[[int], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
        """The arrays of a long text's ids, as far as they are kept, and then those that `made` makes, given how many are there; these
        are kept, too."""
        number = 0
        while (ids := self._read(index, number)) is not None:
            yield ids
            number += 1
        held: list[np.ndarray] = []
        for ids in made(number * GROUP):
            if len(held) == GROUP:  # never with the last array, so that `made` is not asked to leave all out
                self._write(index, number, np.concatenate(held))
                number, held = number + 1, []
            held.append(ids)
            yield ids

    def _read(self, index: int, number: int) -> np.ndarray | None:
        try:
            data = self._group(index, number).read_bytes()
        except FileNotFoundError:
            return None
        return np.frombuffer(data[32:], np.int32) if hashlib.sha256(data[32:]).digest() == data[:32] else None

    def _write(self, index: int, number: int, ids: np.ndarray) -> None:
        data = np.ascontiguousarray(ids, np.int32).tobytes()
        whole = hashlib.sha256(data).digest() + data
        cache.write_atomic(self._group(index, number), lambda temporary: temporary.write_bytes(whole), self._of)

    def _group(self, index: int, number: int) -> pathlib.Path:
        return self.folder / f"text-{index}-{number}"

    def end(self) -> None:
        """Deletes it all, where there is something."""
        if self.folder.exists():  # most are never begun, and this is asked at every start
            cache.drop(self.folder)
