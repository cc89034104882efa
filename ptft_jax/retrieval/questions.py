"""Questions with passages of an index before them: a source of any kind, `?retrieve=INDEX&...` (`ptft_jax.retrieval.options`).

Which records there are, on which side of a split each falls, and what repeats what, is as without passages: a question is on the same side with
and without them.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.config.declare import fields_of
from ptft_jax.config.located import located
from ptft_jax.data import cache
from ptft_jax.data.records.base import Record, Records, Skipped, Source
from ptft_jax.data.records.reference import Reference, settings_of
from ptft_jax.errors import UserError
from ptft_jax.retrieval.index import Index
from ptft_jax.retrieval.options import RetrieveOptions
from ptft_jax.retrieval.reading import Practice, asked_of

_FORM = "retrieved-1"
SAID = ("kind", "corpus", "run", "settings", "passages", "fingerprint")  # of a manifest, in data.json


def source(reference: Reference, broken: str) -> Retrieved:
    """The source that a reference names, with passages. Raises UserError for options that do not go together, and of `Index`."""
    settings = settings_of(reference, RetrieveOptions)
    rest = {name: value for name, value in reference.options.items() if name not in fields_of(RetrieveOptions)}
    plain = dataclasses.replace(reference, options=rest)
    try:
        index = Index(settings.retrieve, "retrieve")
        practice = Practice(index, settings)
    except UserError as e:
        raise reference.error(str(e)) from e
    return Retrieved(located(reference.spec.source)(plain, broken), reference, practice, broken)


class Retrieved:
    """A source whose questions stand behind passages. Implements `Source`.

    Attributes:
      index: what the passages are of, for data.json.
    """

    def __init__(self, plain: Any, reference: Reference, practice: Practice, broken: str):
        self._plain, self._practice, self._broken = plain, practice, broken
        self.reference, self.own, self.left_out = reference, plain.own, plain.left_out
        facts = practice.index.facts
        self.index = {"folder": str(practice.index.folder)} | {name: facts[name] for name in SAID if name in facts}
        self.described = {name: f"{what}; {practice.described}" for name, what in plain.described.items()}

    @property
    def reading(self) -> Any:
        """As of the plain source, if it says."""
        return self._plain.reading

    def read_as(self, reading: Any) -> Source:
        return Retrieved(self._plain.read_as(reading), self.reference, self._practice, self._broken)

    def files(self) -> Mapping[str, str]:
        return self._plain.files()  # the index checks its own

    def whole(self, split: str = "train") -> Records:
        return _Records(self._plain.whole(split), self.reference, self._practice, (split, None, self._broken))

    def divides(self, split: str, held_out: float) -> bool:
        return self._plain.divides(split, held_out)

    def split(self, split: str, held_out: float) -> Records:
        return _Records(
            self._plain.split(split, held_out), self.reference, self._practice, (split, held_out, self._broken)
        )


class _Records:
    """The records of a split, each with its passages. Implements `Records`."""

    def __init__(
        self,
        plain: Any,
        reference: Reference,
        practice: Practice,
        place: tuple[str, float | None, str],
        dropped: np.ndarray | None = None,
    ):
        self._plain, self._reference, self._practice, self._place, self._dropped = (
            plain,
            reference,
            practice,
            place,
            dropped,
        )
        self.reference = reference.text

    def __len__(self) -> int:
        return len(self._plain)

    @property
    def reading(self) -> Any:
        return self._plain.reading

    @property
    def skipped(self) -> Skipped:
        return self._plain.skipped

    @property
    def empty(self) -> Sequence[str]:
        return self._plain.empty

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        return self._plain.class_names

    @property
    def fingerprint(self) -> str:
        return cache.digest(_FORM, self._plain.fingerprint, self._practice.fingerprint)

    def __getitem__(self, number: int) -> Record:
        """Raises UserError for a question that the passages do not go with."""
        number = range(len(self))[number]
        record, where = self._plain[number], self._plain.where(number)
        [key] = self._plain.keys(range(number, number + 1))
        return self._practice.read(record, where, key, self._plain.reading.columns, lambda: self._found[number])

    def where(self, number: int) -> str:
        return (
            f"{self._plain.where(number)}, {self._practice.before}"
            if self._practice.before
            else self._plain.where(number)
        )

    @functools.cached_property
    def _found(self) -> np.ndarray:
        """`FOUND` [records, depth]: what the index finds for each, computed once and kept in the cache."""
        depth, practice, columns = self._practice.depth, self._practice, self._plain.reading.columns
        key = cache.digest(_FORM, self._plain.fingerprint, practice.index.fingerprint, asked_of(columns), str(depth))
        path = cache.root() / "retrieved" / f"{key}.npy"
        if not cache.used(path, self.reference):

            def write(temporary: pathlib.Path) -> None:
                wheres = [self._plain.where(n) for n in range(len(self))]
                queries = [practice.query(self._plain[n], wheres[n], columns) for n in range(len(self))]
                found = np.zeros((len(queries), depth), FOUND)
                found["passage"], found["score"] = practice.index.search(queries, depth)
                with temporary.open("wb") as f:
                    np.save(f, found)

            cache.write_atomic(path, write, self.reference)
        return np.load(path, mmap_mode="r")

    def keys(self, which: range | None = None) -> np.ndarray:
        return self._plain.keys(which)

    def ids(self) -> np.ndarray:
        return self._plain.ids()

    def firsts(self) -> list[tuple[str, Record]]:
        return self._plain.firsts()

    def keep(self, chosen: np.ndarray) -> None:
        """As of `ptft_jax.data.records.table.Table`."""
        self._plain.keep(chosen)
        self.__dict__.pop("_found", None)

    def without(self, dropped: np.ndarray) -> Records:
        return _Records(self._plain.without(dropped), self._reference, self._practice, self._place, dropped)

    def __reduce__(self) -> tuple[Any, ...]:
        from ptft_jax.data.records import opening

        return opening.reopen, (
            self.reference,
            *self._place,
            self.reading,
            self._dropped,
            self.fingerprint,
            self._reference.spec,
        )


FOUND = np.dtype([("passage", "<i4"), ("score", "<f4")])
