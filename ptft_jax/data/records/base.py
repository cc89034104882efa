"""What every source of records offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ptft_jax.data.records.reference import Reference

Record = dict[
    str, Any
]  # column -> value of JSON's types, or the bytes of an image (`ptft_jax.data.pictures.decoding.Image`)


@dataclasses.dataclass
class Skipped:
    """What a source left out because the user said that it may: never silently.

    Attributes:
      count: how many.
      first: the first of them, "PLACE: REASON" each.
      reasons: how many for each reason, where several share one: "hidden" 12.
    """

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)

    MOST = 20

    def add(self, where: str, reason: str, kind: str = "") -> None:
        """`kind`: what it is counted as, where not by the reason's own words before a colon."""
        self.count += 1
        kind = kind or reason.partition(":")[0]
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        if len(self.first) < self.MOST:
            self.first.append(f"{where}: {reason}")


class Records(Protocol):
    """One split of a source. Random access: opening it reads no more than an index. Can be pickled.

    Attributes:
      reference: how the source was named, for messages.
      fingerprint: digest of what is read of this split's records and of their order; equal content, equal fingerprint,
        wherever the files lie.
      skipped: what was left out.
      empty: files that hold no record.
      class_names: column -> names of classes in the order of their numbers, where the source declares them.
    """

    reference: str
    fingerprint: str
    skipped: Skipped
    empty: Sequence[str]
    class_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def where(self, index: int) -> str:
        """The place of a record, as a person would look it up: "chat.jsonl, line 12"."""
        ...

    def keys(self, which: range | None = None) -> np.ndarray:
        """uint64 [records, 2]: equal rows for records that say the same, in whichever source and layout; `which` = only of
        these."""
        ...

    def ids(self) -> np.ndarray:
        """uint64 [records]: equal for equal ids, 0 where there is none."""
        ...

    def firsts(self) -> list[tuple[str, Record]]:
        """(place, record) of those in which a column turns up first that decides how records are read."""
        ...

    def without(self, dropped: np.ndarray) -> Records:
        """The split but for the records at these indices."""
        ...


class Source(Protocol):
    """A source, opened.

    Attributes:
      reference: how it was named.
      own: the splits that it has itself; the others are made of what is trained on.
      described: what each of these is, for people.
      left_out: files, or splits of a dataset, that lie beside what is read.
    """

    reference: Reference
    own: Sequence[str]
    described: Mapping[str, str]
    left_out: Skipped

    def read_as(self, reading: Any) -> Source:
        """The source, of whose records this is read (`ptft_jax.data.formats.Reading`)."""
        ...

    def files(self) -> Mapping[str, str]:
        """Local files -> digests of their content."""
        ...

    def whole(self, split: str = "train") -> Records:
        """All records of a split of its own, before others are made of them. Raises UserError, see `open_records`."""
        ...

    def divides(self, split: str, held_out: float) -> bool:
        """Whether a split is those records of what is trained on that fall to it, whole (`ptft_jax.data.records.table`)."""
        ...

    def split(self, split: str, held_out: float) -> Records:
        """The records of a split. Raises UserError, see `open_records`."""
        ...
