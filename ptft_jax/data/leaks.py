"""Records that are trained on and stand in what a run is measured on, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.records import Records
from ptft_jax.errors import UserError, listed

MOST = 20  # that are named


class Held(NamedTuple):
    """What a run is measured on.

    Attributes:
      reference, split: which part of which source.
      records: its keys and places.
      apart: the sources of whose train split it has no text, as both are made by one division.
    """

    reference: str
    split: str
    records: Records
    apart: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Of one source those records of its train split that stand in what is held out.

    Attributes:
      records: int64, ascending: their indices.
      texts: how many of them say what a record there says, in whichever source.
      ids: how many have the id of a record that the same source holds out.
      first: the first of them, "PLACE: what PLACE says" each.
    """

    records: np.ndarray
    texts: int
    ids: int
    first: list[str]

    def noted(self) -> dict[str, Any]:
        """For data.json."""
        return {"records": len(self.records), "texts": self.texts, "ids": self.ids, "first": self.first}


def find(reference: str, train: Records, held: Iterable[Held]) -> Leaks:
    """The leaks of a source, whose train split this is. Sorts digests; no record is read."""
    keys = ids = None
    by_text: dict[int, tuple[Records, int]] = {}
    by_id: dict[int, tuple[Records, int]] = {}
    for one in held:
        if reference not in one.apart:
            keys = train.keys() if keys is None else keys
            for mine, theirs in _shared(keys, one.records.keys()):
                by_text.setdefault(mine, (one.records, theirs))
        if reference == one.reference:
            ids = train.ids() if ids is None else ids
            both = _shared(np.stack([ids, ids], 1), np.stack([one.records.ids()] * 2, 1)) if ids.any() else []
            for mine, theirs in both:
                if ids[mine]:
                    by_id.setdefault(mine, (one.records, theirs))
    which = sorted({*by_text, *by_id})
    first = []
    for index in which[:MOST]:
        records, other = by_text.get(index) or by_id[index]
        verb = "says what" if index in by_text else "has the id of"
        tail = " says" if index in by_text else ""
        first.append(f"{train.where(index)}: {verb} {records.where(other)}{tail}")
    return Leaks(np.asarray(which, np.int64), len(by_text), len(by_id), first)


def refuse(found: dict[str, Leaks]) -> None:
    """Raises UserError where there are leaks."""
    count = sum(len(leaks.records) for leaks in found.values())
    if count:
        lines = [line for leaks in found.values() for line in leaks.first]
        texts, ids = (sum(getattr(leaks, name) for leaks in found.values()) for name in ("texts", "ids"))
        raise UserError(
            f"config.data.leaks = 'raise': {count:,} records that are trained on stand in validation or test data, {texts:,} "
            f"by their text, {ids:,} by their id; 'drop' leaves them out, 'say' goes on, and id=- in the options of a source "
            f"says that it has no ids:{listed(lines)}"
        )


def _shared(mine: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int]]:
    """(index in mine, index in theirs, the first) of the rows (uint64 [n, 2]) that both have."""
    some = np.flatnonzero(np.isin(mine[:, 0], theirs[:, 0]))
    if not len(some):
        return []
    candidates = np.flatnonzero(np.isin(theirs[:, 0], mine[some, 0]))
    known: dict[tuple[int, int], int] = {}
    for index in candidates.tolist():
        known.setdefault((int(theirs[index, 0]), int(theirs[index, 1])), index)
    pairs = ((index, known.get((int(mine[index, 0]), int(mine[index, 1])))) for index in some.tolist())
    return [(index, other) for index, other in pairs if other is not None]
