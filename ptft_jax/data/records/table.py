"""Records of one or several shards as one sequence, and its division into splits: by what each says, and nothing else.

A record's key (16 bytes) is a digest of its texts, so its first 8 bytes, a number below 2 ** 64, are as good as drawn at
random, once for all sources, files and releases of the data. The lowest share of these numbers is validation, the highest
test. Records that say the same are on one side, in whichever source; records that are added move none that was there; and
a larger share only takes more of what was trained on.
"""

from __future__ import annotations

import bisect
import csv
import functools
import hashlib
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import index as indexes
from ptft_jax.data.records import values
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.errors import UserError, few, nearest

_OPEN = 16  # shards open at once
_RANGE = 2**64


class Table:
    """Records of a source. Implements `Records`; pickled as its name, and opened again where it is unpickled.

    Attributes:
      reading: what of the records is read.
      empty: the files that hold no record.
    """

    def __init__(
        self,
        reference: Reference,
        split: str,
        broken: str,
        shards: Sequence[indexes.Shard],
        reading: Reading,
        empty: Sequence[str] = (),
    ):
        """All records of the source's own `split`; `empty` names what it has beside the shards. Raises UserError where there
        is no record, or one that is broken or repeats an id."""
        self.reference, self.reading = reference.text, reading
        self._broken, self._split, self._held_out = broken, split, None
        self._dropped: np.ndarray | None = None
        self._parsed = reference
        forgiving = broken == "skip"
        self._shards = list(shards)
        self._kept = indexes.of_all(self._shards, reference.id_column, forgiving, reading)
        self._indexes = self._kept.each
        without = [shard.name for shard, index in zip(self._shards, self._indexes) if not index.count]
        if len(without) == len(self._shards):
            raise UserError(f"{without[0]}: holds no record")
        self.empty = sorted([*without, *empty])
        self._ends = list(itertools.accumulate(index.count for index in self._indexes))
        self.skipped = Skipped()
        for shard, index in zip(self._shards, self._indexes):
            self.skipped.count += index.skipped.count
            room = Skipped.MOST - len(self.skipped.first)
            self.skipped.first += [f"{shard.name}, {place}" for place in index.skipped.first[:room]]
        # Without a reference to self: what is open is closed as soon as nothing refers to the table.
        opened, indexed = self._shards, self._indexes
        self._open = functools.lru_cache(_OPEN)(lambda shard: opened[shard].open(reading))
        self._rows = functools.lru_cache(_OPEN)(lambda shard: indexed[shard].rows())
        self._chosen: np.ndarray | None = None  # positions of the records; None = all
        repeated = self._repeated_ids(forgiving)
        if len(repeated):
            self._chosen = np.delete(np.arange(self._ends[-1]), repeated)

    def __len__(self) -> int:
        return self._ends[-1] if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        """Raises UserError where the record is not what it was when it was indexed."""
        return self._read(self._position(index))

    def where(self, index: int) -> str:
        return self._place(self._position(index))

    @functools.cached_property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Column -> names of classes, as the shards declare them. Raises UserError where two differ."""
        found: dict[str, tuple[str, ...]] = {}
        for shard in self._shards:
            for column, names in getattr(shard, "class_names", {}).items():
                if found.setdefault(column, names) != names:
                    raise self._parsed.error(
                        f"{shard.name} has the classes {few(names)} in column {column!r}, and {self._shards[0].name} "
                        f"{few(found[column])}: their numbers differ"
                    )
        return found

    @functools.cached_property
    def fingerprint(self) -> str:
        sha, content = hashlib.sha256(b"records-2"), self._columns("high", "low")
        for start in range(0, len(self), 1 << 20):
            part = slice(start, start + (1 << 20))
            sha.update(np.ascontiguousarray(content[part if self._chosen is None else self._chosen[part]]).tobytes())
        return sha.hexdigest()[:32]

    def keys(self, which: range | None = None) -> np.ndarray:
        """uint64 [records, 2]: equal rows for records that say the same; `which` = only of these."""
        if which is not None:
            rows = [self._row(self._position(index))[1] for index in which]
            return np.asarray([(row["text_high"], row["text_low"]) for row in rows], np.uint64).reshape(-1, 2)
        both = self._columns("text_high", "text_low")
        return both if self._chosen is None else both[self._chosen]

    def ids(self) -> np.ndarray:
        """uint64 [records]: equal for equal ids, 0 where there is none."""
        found = self._columns("id")[:, 0]
        return found if self._chosen is None else found[self._chosen]

    def firsts(self) -> list[tuple[str, Record]]:
        """(place, record) of those in which a column that is watched turns up first (see `formats.late`), among all records
        of the shards: the other splits that are made of them count, too."""
        found: dict[str, list[int]] = {}
        start = 0
        for index in self._indexes:
            for name, numbers in index.firsts.items():
                known = found.setdefault(name, [-1] * len(numbers))
                for k, number in enumerate(numbers):
                    if known[k] < 0 <= number:
                        known[k] = start + number
            start += index.count
        positions = sorted({position for known in found.values() for position in known if position >= 0})
        return [(self._place(position), self._read(position)) for position in positions]

    def keep(self, chosen: np.ndarray) -> None:
        """Leaves only the records at these indices."""
        self._chosen = chosen if self._chosen is None else self._chosen[chosen]
        self.__dict__.pop("fingerprint", None)

    def without(self, dropped: np.ndarray) -> Table:
        """The table but for the records at these indices."""
        made = self._clone()
        made.keep(np.delete(np.arange(len(self)), dropped))
        made._dropped = dropped
        return made

    def part(self, split: str, held_out: float, chosen: np.ndarray | None) -> Table:
        """The records at these indices (None = all) as a split, made by holding out such a share of what is trained on."""
        made = self._clone()
        made._split, made._held_out = split, held_out
        if chosen is not None:
            made.keep(chosen)
        return made

    def _clone(self) -> Table:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        from ptft_jax.data.records import opening

        arguments = (self.reference, self._split, self._held_out, self._broken, self.reading)
        return opening.reopen, (*arguments, self._dropped, self.fingerprint, self._parsed.spec)

    def _columns(self, *names: str) -> np.ndarray:
        """[all records of the shards, names] of the indexes."""
        return self._kept.columns(*names)

    def _read(self, position: int) -> Record:
        shard, row = self._row(position)
        try:
            record = self._open(shard).read(row)
            digest = values.digest(self.reading.content(record))
        except (ValueError, LookupError, StopIteration, csv.Error, values.Broken):  # bytes that are no record
            digest = b""
        if digest != row["high"].tobytes() + row["low"].tobytes():
            raise UserError(
                f"{self._place(position)}: not what it was when it was indexed: the file is damaged, or its copy in the cache: "
                f"compare it with another copy, `ptft cache --clear --kind=remote,decompressed,arrow,records` deletes what is kept of it"
            )
        return record

    def _position(self, index: int) -> int:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.reference!r}")
        index %= len(self)
        return index if self._chosen is None else int(self._chosen[index])

    def _row(self, position: int) -> tuple[int, np.void]:
        shard = bisect.bisect_right(self._ends, position)
        rows = self._rows(shard)
        return shard, rows[position - self._ends[shard] + len(rows)]

    def _place(self, position: int) -> str:
        shard, row = self._row(position)
        return f"{self._shards[shard].name}, {self._shards[shard].place(int(row['number']))}"

    def _repeated_ids(self, forgiving: bool) -> np.ndarray:
        """Positions of the records whose id an earlier one has."""
        column = self._parsed.id_column
        ids = self._columns("id")[:, 0]
        if not ids.any():
            if "id" in self._parsed.options and column is not None:
                raise self._parsed.error(f"id={column}: no record has such a column; id=- says that there are no ids")
            return np.empty(0, np.int64)
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        again = np.flatnonzero((ids[1:] == ids[:-1]) & (ids[1:] != 0)) + 1
        if not len(again):
            return again
        first = order[np.searchsorted(ids, ids[again])]  # the argsort is stable: the earliest of each id
        pairs = sorted(zip(order[again].tolist(), first.tolist()))
        for later, earlier in pairs[: Skipped.MOST if forgiving else 1]:
            reason = f"the {column} {self._read(later)[column]!r} is that of {self._place(earlier)} too"
            if not forgiving:
                raise UserError(
                    f"{self._place(later)}: {reason}; ids must differ. Leave out all but the first with data.broken=skip, "
                    "or say which column is the id with the option id=COLUMN (id=- for none)"
                )
            self.skipped.add(self._place(later), reason)
        self.skipped.count += max(len(pairs) - Skipped.MOST, 0)
        return np.array([later for later, _ in pairs])


def limit(reference: Reference, split: str, table: Any) -> None:
    """Applies the option `examples`. Raises UserError where the train split has fewer."""
    if split == "train" and reference.examples is not None:
        if reference.examples > len(table):
            raise reference.error(f"examples={reference.examples}: the train split has only {len(table)} records")
        table.keep(np.arange(reference.examples))


def own_splits(reference: Reference, have: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Split -> what a dataset that has the splits `have` calls it: as options say, else by its usual names.

    Raises:
      UserError: an option that names none of them, or nothing to train on.
    """
    own = {}
    for split in SPLITS:
        named = reference.options.get(split)
        if named and named not in have:
            raise reference.error(f"{split}={named}: the splits are {', '.join(have)}{nearest(named, have)}")
        found = named or next((a for a in aliases[split] if a in have), None)
        if found:
            own[split] = found
    if "train" not in own and (reference.trains or not own):
        raise reference.error(f"no split 'train' among {', '.join(have)}; name the one to train on with train=")
    repeated = [s for s in own if list(own.values()).count(own[s]) > 1]
    if repeated:
        raise reference.error(f"{' and '.join(repeated)} are all {own[repeated[0]]!r}: name different splits")
    return own


def described_splits(own: Mapping[str, str], have: Sequence[str]) -> tuple[dict[str, str], Skipped]:
    """Of a dataset that has the splits `have`: what each split of `own_splits` is, for people, and those that are none."""
    left_out = Skipped()
    for name in have:
        if name not in own.values():
            left_out.add(f"its split {name}", "named by none of train=, validation=, test=, nor called so")
    return {split: f"its split {name}" for split, name in own.items()}, left_out


def divide(reference: Reference, keys: np.ndarray, missing: Sequence[str], share: float) -> dict[str, np.ndarray]:
    """Indices of the records of train and of the `missing` splits, ascending.

    Where none of the few records of a small source falls to a split, the one that is nearest stands in, with those that are
    equal to it: the only case in which records that are added may move another (`stand_ins` counts them).

    Args:
      keys: uint64 [records, 2].
      share: of all that there could be, for each missing split, so of the different records in expectation.

    Raises:
      UserError: so few different records that a share of them rounds to none, or fewer than there are splits.
    """
    _check_enough(reference, keys, missing, share)
    sides = np.zeros(len(keys), np.int8)
    for split in missing:
        sides[_falls_to(keys, split, share)] = SPLITS.index(split)
    names = [split for split in SPLITS if split == "train" or split in missing]
    if not all((sides == SPLITS.index(name)).any() for name in names):
        sides = _one_each(keys, missing, share)
    return {name: np.flatnonzero(sides == SPLITS.index(name)) for name in names}


def stand_ins(keys: np.ndarray, split: str, share: float) -> int:
    """How many records of a split that is missing fell to another (uint64 [records, 2]: those of the split)."""
    return int(np.count_nonzero(~_falls_to(keys, split, share)))


def _falls_to(keys: np.ndarray, split: str, share: float) -> np.ndarray:
    """bool [records]. A share is a multiple of 2 ** -64 as it is: nothing is rounded."""
    border = int(share * _RANGE)
    if split == "validation":
        return keys[:, 0] < np.uint64(border)
    return keys[:, 0] >= np.uint64(_RANGE - border) if border else np.zeros(len(keys), bool)


def _check_enough(reference: Reference, keys: np.ndarray, missing: Sequence[str], share: float) -> None:
    enough = max(1 + len(missing), int(1 / share) + 1)
    different = 0
    for block in (keys[: 64 * enough], keys):
        different = len(np.unique(block, axis=0))
        if different >= enough:
            return
    if not round(different * share) or different < 1 + len(missing):
        raise reference.error(
            f"{different} different record{'s are' if different > 1 else ' is'} too few to hold out a share of {share:g} for each of "
            f"{' and '.join(missing)}; name those splits with validation= and test=, or change data.held_out"
        )


def _one_each(keys: np.ndarray, missing: Sequence[str], share: float) -> np.ndarray:
    """int8 [records], the number of each one's split. In the order of their keys validation is at the front and test at the
    end: where a split has none, its border moves by one record."""
    different, rank = np.unique(keys, axis=0, return_inverse=True)
    held = {split: max(int(np.count_nonzero(_falls_to(different, split, share))), 1) for split in missing}
    while sum(held.values()) >= len(different):  # one is left to train on
        held[max(held, key=held.__getitem__)] -= 1
    sides = np.zeros(len(different), np.int8)
    sides[: held.get("validation", 0)] = SPLITS.index("validation")
    sides[len(different) - held.get("test", 0) :] = SPLITS.index("test")
    return sides[rank.reshape(-1)]
