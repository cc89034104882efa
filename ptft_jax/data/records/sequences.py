"""Sources that are sequences of records: readers of any kind, with a length and random access."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files, values
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource
from ptft_jax.data.records.table import described_splits, own_splits
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError


def sequence_source(
    reference: Reference, broken: str, splits: Mapping[str, Sequence[Mapping[str, Any]]]
) -> TableSource:
    """The source whose splits are sequences of records, mappings from columns to values; any number of threads may read.

    What is read is checked each time against one pass over all records, which gives the fingerprint. A sequence may have:

      fingerprint: a text that is another one when its records are others. With it the pass is made once, and kept in the
        cache; without it, whenever the source is opened.
      class_names: column -> names of the classes, in the order of their numbers.
      files: local files that it is made from -> digests of their content.

    A record that cannot be read is a ValueError, with the reason: `data.broken` says what becomes of it.

    Args:
      broken: "raise" or "skip".
      splits: name -> sequence; "train" (or what the option `train` names) and what else there is. A split that is not there is
        a share of the first, as of all sources.

    Raises:
      UserError: nothing to train on.
    """
    own = own_splits(reference, list(splits), files.ALIASES)

    def shards(name: str) -> tuple[list[SequenceShard], tuple[()]]:
        return [SequenceShard(f"{reference.kind}:{reference.name}/{name}", splits[name])], ()

    described, left_out = described_splits(own, list(splits))
    return TableSource(reference, broken, own, shards, described=described, left_out=left_out)


class SequenceShard:
    """A sequence of records. Implements `ptft_jax.data.records.index.Shard`."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]):
        self.name, self.files, self._rows = name, dict(getattr(rows, "files", {})), rows
        self.class_names = {column: tuple(names) for column, names in getattr(rows, "class_names", {}).items()}
        fingerprint = getattr(rows, "fingerprint", "")
        self.key = f"sequence {type(rows).__module__} {len(rows)} {fingerprint}" if fingerprint else ""

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        for number in range(len(self._rows)):
            record: Record | Broken
            try:
                record = self._read(number)
            except Broken as e:
                record = e
            yield Found(0, 0, number, record)

    def open(self, reading: Reading) -> SequenceShard:
        return self

    def read(self, row: np.void) -> Record:
        return self._read(int(row["number"]))

    def check(self) -> None:
        """There is nothing that could tell."""

    def place(self, number: int) -> str:
        return f"record {number}"

    def _read(self, number: int) -> Record:
        """Raises Broken; UserError where the reader fails otherwise."""
        try:
            found = self._rows[number]
        except ValueError as e:
            raise Broken(str(e)) from e
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"{self.name}, {self.place(number)}: its reader fails: {type(e).__name__}: {e}") from e
        if not isinstance(found, Mapping):
            raise Broken(f"a {type(found).__name__}, not a mapping from columns to values")
        return {str(column): values.plain(value, str(column)) for column, value in found.items()}
