"""`parquet:` rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ptft_jax.data.records import files
from ptft_jax.data.records.columnar import ColumnarFile
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.errors import UserError

SUFFIXES = (".parquet",)


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    return file_source(
        reference, broken, SUFFIXES, lambda file: ColumnarFile(file, reference.columns, "Parquet", RowGroups)
    )


class RowGroups:
    """See `ptft_jax.data.records.columnar.Groups`."""

    def __init__(self, file: files.File):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(file.path)
        except (OSError, pa.ArrowException) as e:
            raise UserError(f"{file.name}: not a Parquet file: {e}") from e
        self.schema, stored = self._file.schema_arrow, self._file.metadata
        self.counts = [stored.row_group(i).num_rows for i in range(stored.num_row_groups)]

    def batches(self, columns: list[str]) -> Iterator[Any]:
        return self._file.iter_batches(1024, columns=columns)

    def group(self, number: int, columns: list[str] | None) -> Any:
        return self._file.read_row_group(number, columns=columns)
