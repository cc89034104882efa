"""Records of one or several shards as one sequence, and its division into splits."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.records import files
from ptft_jax.data.records import index as indexes
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.errors import UserError, few, nearest

_OPEN = 16  # shards open at once


class Table:
    """A split of a source. Implements `Records`; pickled as its name, and opened again where it is unpickled."""

    def __init__(self, reference: Reference, split: str, held_out: float, broken: str, shards: Sequence[indexes.Shard]):
        self.reference = reference.text
        self._arguments = (reference.text, split, held_out, broken)
        self._parsed = reference
        self._shards = list(shards)
        self.divided: tuple[str, ...] = ()
        forgiving = broken == "skip"
        self._indexes = [indexes.of(shard, reference.id_column, forgiving) for shard in self._shards]
        self._ends = list(itertools.accumulate(index.count for index in self._indexes))
        self.skipped = Skipped()
        for shard, index in zip(self._shards, self._indexes):
            self.skipped.count += index.skipped.count
            room = Skipped.MOST - len(self.skipped.first)
            self.skipped.first += [f"{shard.name}, {place}" for place in index.skipped.first[:room]]
        # Without a reference to self: what is open is closed as soon as nothing refers to the table.
        opened, indexed = self._shards, self._indexes
        self._open = functools.lru_cache(_OPEN)(lambda shard: opened[shard].open())
        self._rows = functools.lru_cache(_OPEN)(lambda shard: indexed[shard].rows())
        self._chosen: np.ndarray | None = None  # positions of this split's records; None = all
        repeated = self._repeated_ids(forgiving)
        if len(repeated):
            self._chosen = np.delete(np.arange(self._ends[-1]), repeated)

    def __len__(self) -> int:
        return self._ends[-1] if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        shard, row = self._row(self._position(index))
        return self._open(shard).read(row)

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
        sha = hashlib.sha256(b"records-1")
        digests = self.digests()
        for start in range(0, len(digests), 1 << 20):
            sha.update(np.ascontiguousarray(digests[start : start + (1 << 20)]).tobytes())
        return sha.hexdigest()[:32]

    def digests(self) -> np.ndarray:
        """uint64 [records, 2]: equal rows for equal records."""
        parts = (index.rows() for index in self._indexes)
        both = np.concatenate([np.stack([rows["high"], rows["low"]], axis=1) for rows in parts])
        return both if self._chosen is None else both[self._chosen]

    def keep(self, chosen: np.ndarray) -> None:
        """Leaves only the records at these indices."""
        self._chosen = chosen if self._chosen is None else self._chosen[chosen]
        self.__dict__.pop("fingerprint", None)

    def __reduce__(self) -> tuple[Any, ...]:
        from ptft_jax.data.records import opening

        return opening.reopen, (*self._arguments, self.fingerprint)

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
        ids = np.concatenate([np.array(index.rows()["id"]) for index in self._indexes])
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
            shard, row = self._row(later)
            reason = f"the {column} {self._open(shard).read(row)[column]!r} is that of {self._place(earlier)} too"
            if not forgiving:
                raise UserError(
                    f"{self._place(later)}: {reason}; ids must differ. Leave out all but the first with data.broken=skip, "
                    "or say which column is the id with the option id=COLUMN (id=- for none)"
                )
            self.skipped.add(self._place(later), reason)
        self.skipped.count += max(len(pairs) - Skipped.MOST, 0)
        return np.array([later for later, _ in pairs])


def open_split(
    reference: Reference,
    split: str,
    held_out: float,
    broken: str,
    own: dict[str, Any],
    shards: Callable[[Any], Sequence[indexes.Shard]],
) -> Table:
    """A split of a source that has the splits `own` (name -> what `shards` opens). Those that it lacks are made from
    the records of "train" (`divide`)."""
    missing = [s for s in SPLITS if s not in own]
    divided = bool(missing) and split in ("train", *missing)
    table = Table(reference, split, held_out, broken, shards(own["train" if divided else split]))
    if divided:
        table.divided = tuple(missing)
        table.keep(divide(reference, table.digests(), missing, held_out)[split])
    limit(reference, split, table)
    return table


def open_files(
    reference: Reference,
    split: str,
    held_out: float,
    broken: str,
    suffixes: Iterable[str],
    shard: Callable[[files.File], indexes.Shard],
) -> Table:
    """A split of a source that is files with these suffixes, each a `shard`."""

    def shards(names: list[str]) -> list[indexes.Shard]:
        return [shard(files.File.open(name)) for name in names]

    return open_split(reference, split, held_out, broken, files.find(reference, suffixes), shards)


def limit(reference: Reference, split: str, table: Any) -> None:
    """Applies the option `examples`. Raises UserError where the train split has fewer."""
    if split == "train" and reference.examples is not None:
        if reference.examples > len(table):
            raise reference.error(f"examples={reference.examples}: the train split has only {len(table)} records")
        table.keep(np.arange(reference.examples))


def divide(reference: Reference, digests: np.ndarray, missing: Sequence[str], share: float) -> dict[str, np.ndarray]:
    """Indices of the records of train and of the `missing` splits, ascending.

    Records are divided in the order of their digests, so that neither their names nor their order (dates, topics)
    decide what is held out; and equal records fall on the same side.

    Args:
      digests: uint64 [records, 2].
      share: of the different records, for each missing split.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    new = np.any(digests[order[1:]] != digests[order[:-1]], axis=1)
    rank = np.empty(len(digests), np.int64)  # of each record among the different ones
    rank[order] = np.concatenate([[0], np.cumsum(new)])
    different = int(rank.max()) + 1
    held = round(different * share)
    left = different - held * len(missing)
    if not held or left < 1:
        raise reference.error(
            f"{different} different record{'s are' if different > 1 else ' is'} too few to hold out a share of {share:g} for each of "
            f"{' and '.join(missing)}; name those splits with validation= and test=, or change data.held_out"
        )
    borders = [0, left, *(left + held * (i + 1) for i in range(len(missing)))]
    names = ["train", *missing]
    return {name: np.flatnonzero((rank >= low) & (rank < high)) for name, low, high in zip(names, borders, borders[1:])}


def own_splits(reference: Reference, have: Sequence[str], aliases: dict[str, Sequence[str]]) -> dict[str, str]:
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
    if "train" not in own:
        raise reference.error(f"no split 'train' among {', '.join(have)}; name the one to train on with train=")
    repeated = [s for s in own if list(own.values()).count(own[s]) > 1]
    if repeated:
        raise reference.error(f"{' and '.join(repeated)} are all {own[repeated[0]]!r}: name different splits")
    return own
