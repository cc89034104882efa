"""A source: its own splits, and those that are made of what is trained on."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.formats import Reading
from ptft_jax.data.formats.choosing import FIRST
from ptft_jax.data.records import files, listing, looks
from ptft_jax.data.records import index as indexes
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.known import Known
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.data.records.table import Table, divide, limit
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import listed


class TableSource:
    """A source of shards. Implements `Source`."""

    def __init__(
        self,
        reference: Reference,
        broken: str,
        own: Mapping[str, Any],
        shards: Callable[[Any], tuple[Sequence[indexes.Shard], Sequence[str]]],
        *,
        described: Mapping[str, str],
        left_out: Skipped,
        reading: Reading | None = None,
    ):
        """
        Args:
          own: split that it has itself -> what `shards` opens: (those with records, names of those that hold nothing).
          reading: what of the records is read; None = as the first of what is trained on decide.
        """
        self.reference, self.own = reference, tuple(own)
        self.described, self.left_out = described, left_out
        self._broken, self._names, self._open = broken, own, shards
        self._shards: dict[str, tuple[Sequence[indexes.Shard], Sequence[str]]] = {}
        self._tables: dict[str, Table] = {}
        self._divided: dict[float, dict[str, np.ndarray]] = {}
        self._reading = reading

    @functools.cached_property
    def reading(self) -> Reading:
        """What of the records is read."""
        return self._reading or _reading(
            self._opened("train" if "train" in self.own else self.own[0])[0], self.reference
        )

    def read_as(self, reading: Reading) -> TableSource:
        """The source, of whose records this is read."""
        if reading == self.reading:
            return self
        named = {"described": self.described, "left_out": self.left_out}
        return TableSource(self.reference, self._broken, self._names, self._open, reading=reading, **named)

    def whole(self, split: str = "train") -> Table:
        """All records of a split of its own."""
        if split not in self._tables:
            shards, empty = self._opened(split)
            self._tables[split] = Table(self.reference, split, self._broken, shards, self.reading, empty)
        return self._tables[split]

    def divides(self, split: str, held_out: float) -> bool:
        """Whether a split is those records of what is trained on that fall to it."""
        return split not in self.own

    def split(self, split: str, held_out: float) -> Table:
        """The records of a split: its own, or such a share of what is trained on."""
        chosen = None if split in self.own and split != "train" else self._division(held_out).get(split)
        found = self.whole(split if split in self.own else "train").part(split, held_out, chosen)
        limit(self.reference, split, found)
        return found

    def files(self) -> dict[str, str]:
        """Local files -> digests of their content."""
        found: dict[str, str] = {}
        for shards, empty in map(self._opened, self.own):
            found |= {name: digest for shard in shards for name, digest in shard.files.items()}
            found |= files.digests(empty)
        return found

    def _opened(self, split: str) -> tuple[Sequence[indexes.Shard], Sequence[str]]:
        if split not in self._shards:
            self._shards[split] = self._open(self._names[split])
        return self._shards[split]

    def _division(self, held_out: float) -> dict[str, np.ndarray]:
        missing = [split for split in SPLITS if split not in self.own]
        if missing and held_out not in self._divided:
            keys = self.whole().keys()
            self._divided[held_out] = divide(self.reference, keys, missing, held_out)
        return self._divided.get(held_out, {})


def file_source(
    reference: Reference, broken: str, suffixes: Iterable[str], shard: Callable[[files.File], indexes.Shard]
) -> TableSource:
    """The source that is files with these suffixes, each a `shard`. One that holds nothing is left out where others do."""
    found = listing.find(reference, suffixes)

    def shards(names: list[str]) -> tuple[list[indexes.Shard], list[str]]:
        looks.refuse_other_names(reference, names)
        opened, empty = [], []
        known = Known(names) if len(names) > 1 else None
        for name in names:
            try:
                opened.append(shard(files.File.open(name, known=known)))
            except files.NoRecords:
                if len(names) == 1:
                    raise
                empty.append(name)
        if known:
            known.save()
        if not opened:
            raise reference.error(f"no file holds a record:{listed(empty)}")
        return opened, empty

    described = {split: found.described(split) for split in found.splits}
    return TableSource(reference, broken, found.splits, shards, described=described, left_out=found.left_out)


def _reading(shards: Sequence[indexes.Shard], reference: Reference) -> Reading:
    """How records are read, as the first of these shards decide: once, and then from the cache."""
    made_of = [repr(sorted(reference.options.items())), Reading().identity, *(shard.key for shard in shards)]
    path = cache.root() / "readings" / cache.digest("reading-2", *made_of)
    if all(shard.key for shard in shards) and (known := cache.noted(path)):
        layout, columns, coded = json.loads(known)
        return Reading.of_columns(layout, columns, reference.options, coded)
    found = Reading.of(_sample(shards, reference), reference.options)
    for shard in shards:
        shard.check()
    if all(shard.key for shard in shards):
        text = json.dumps([found.layout, dict(found.columns), found.json])
        cache.write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return found


def _sample(shards: Sequence[indexes.Shard], reference: Reference) -> list[Record]:
    """The first records that can be read."""
    anything = Reading(strict=False)
    scanned = (found.record for shard in shards for found in shard.scan(anything, reference.id_column))
    return list(itertools.islice((record for record in scanned if not isinstance(record, Broken)), FIRST))
