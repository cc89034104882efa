"""What every source of records offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

Record = dict[str, Any]  # column -> value of JSON's types


@dataclasses.dataclass
class Skipped:
    """What a source left out because the user said that it may: never silently.

    Attributes:
      count: how many records.
      first: the first of them, "PLACE: REASON" each.
    """

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    MOST = 20

    def add(self, where: str, reason: str) -> None:
        self.count += 1
        if len(self.first) < self.MOST:
            self.first.append(f"{where}: {reason}")


class Records(Protocol):
    """One split of a source. Random access: opening it reads no more than an index.

    Attributes:
      reference: how the source was named, for messages.
      fingerprint: digest of the content of this split's records and their order; equal content, equal fingerprint,
        wherever the files lie. Changes when a file changes.
      skipped: what was left out.
      divided: the other splits that were made of the records of "train", which hold a share of what it was.
      class_names: column -> names of classes in the order of their numbers, where the source declares them.
    """

    reference: str
    fingerprint: str
    skipped: Skipped
    divided: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def where(self, index: int) -> str:
        """The place of a record, as a person would look it up: "chat.jsonl, line 12"."""
        ...
