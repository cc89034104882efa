"""A stream of documents: any of them is made by itself, from (world, split, stream, index)."""

from __future__ import annotations

import abc
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.config.declare import Options
from ptft_jax.data import cache
from ptft_jax.data.records.reference import SPLITS
from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.people import World

Document = dict[str, Any]


class Stream(abc.ABC):
    """Documents of one kind about a world.

    Attributes:
      name: as it is called in `world:NAME`.
      options: the class of its options.
      made_of: the words that are its own, beside the world's tables and templates.
    """

    name: ClassVar[str]
    options: ClassVar[type[Options]]
    made_of: ClassVar[str] = ""

    def __init__(self, world: World, settings: Any, tag: str = ""):
        """
        Args:
          settings: an instance of `options`.
          tag: what texts begin with, before a colon; "" = nothing.

        Raises:
          UserError: what does not go with the world.
        """
        self.world, self.settings, self.tag = world, settings, tag
        self.splits = {split: found for split in self.split_names() if (found := self.documents(split)) is not None}

    def split_names(self) -> Sequence[str]:
        return SPLITS

    @abc.abstractmethod
    def documents(self, split: str) -> Documents | None:
        """The documents of a split; None where it has none of its own."""

    @property
    def fingerprint(self) -> str:
        return cache.digest(self.world.fingerprint, self.name, self.made_of, repr(self.settings), self.tag)

    def key(self, *parts: str | int) -> int:
        """Of the random numbers of something in this stream, whatever its settings."""
        return self.world.key(self.name, *parts)


class Documents(abc.ABC, Sequence[Document]):
    """The documents of a split, made when they are asked for.

    Attributes:
      described: what they are, for people.
      fingerprint: another one where documents are others.
      files: the world's file -> its digest, where it is a user's.
    """

    described: str = ""

    def __init__(self, stream: Stream, split: str):
        self.world, self._tag = stream.world, f"{stream.tag}: " if stream.tag else ""
        self.fingerprint = cache.digest(stream.fingerprint, split)
        spec = stream.world.spec
        self.files = {spec.path: spec.digest} if spec.path else {}

    @abc.abstractmethod
    def document(self, index: int) -> Document:
        """That at an index from 0 to below the length."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        found = self.document(place)
        if self._tag:
            found["text"] = self._tag + found["text"]
        return found


def eras(text: str, world: World, option: str = "era") -> range:
    """The eras that an option names: "2", "0-4", "all". Raises UserError."""
    count = world.spec.eras.count
    if text == "all":
        return range(count)
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < count:
        raise UserError(
            f"{option}={text}: expected all, or one or several of the eras 0 to {count - 1}, such as 2 or 0-2"
        )
    return range(first, last + 1)


def numbers(text: str, count: int, option: str, words: str = "") -> list[int]:
    """The numbers below `count` that an option names: "2", "0-3"; `words`: what else it may say. Raises UserError."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < count:
        raise UserError(f"{option}={text}: expected {words}numbers from 0 to {count - 1}, such as 2 or 0-2")
    return list(range(first, last + 1))


class Rounds:
    """Numbers below some count that come again and again, in another order each time; how often differs.

    Attributes:
      total: how many there are in all.
    """

    def __init__(self, key: int, times: np.ndarray):
        """`times`: int64 [count], how often each comes."""
        self._order = np.argsort(-times, kind="stable")  # those that come in a round are the first of these
        most = int(times.max(initial=0))
        self._sizes = np.asarray([np.count_nonzero(times > n) for n in range(most)], np.int64)
        self._ends = np.cumsum(self._sizes)
        self.total = int(times.sum())
        self._shuffles = [draws.Shuffle(draws.key(key, n), int(size)) for n, size in enumerate(self._sizes)]

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(the number, which time it comes)."""
        at = int(np.searchsorted(self._ends, index, side="right"))
        slot = index - int(self._ends[at]) + int(self._sizes[at])
        return int(self._order[self._shuffles[at][slot]]), at
