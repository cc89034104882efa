"""`arrow:` rows of Arrow files (Feather's second version is one) and of Arrow streams, as pyarrow and `datasets` write them."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from ptft_jax.data import cache
from ptft_jax.data.records import files
from ptft_jax.data.records.columnar import ColumnarFile
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource, file_source
from ptft_jax.errors import UserError

SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
_FILE, _OLD_FEATHER = b"ARROW1", b"FEA1"
_ROWS = 1024  # of a batch that is read in turn, or written


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`."""
    return file_source(
        reference, broken, SUFFIXES, lambda file: ColumnarFile(file, reference.columns, "Arrow", Batches)
    )


class Batches:
    """See `ptft_jax.data.records.columnar.Groups`. Of a stream, which says nowhere what lies where, a file is kept in the cache."""

    def __init__(self, file: files.File):
        import pyarrow as pa

        try:
            with open(file.path, "rb") as opened:
                start = opened.read(len(_FILE))
            if start.startswith(_OLD_FEATHER):
                raise UserError(f"{file.name}: Feather's first version, which is not read: write it as Parquet")
            path = file.path if start == _FILE else _stored(file)
            # Not by mapping the file: a mapped file that another process cuts short ends this one with a bus error.
            self._path, self._reader = path, pa.ipc.open_file(pa.OSFile(str(path)))
            self.schema = self._reader.schema
        except (OSError, pa.ArrowException) as e:
            raise UserError(f"{file.name}: not an Arrow file or stream: {e}") from e

    @functools.cached_property
    def counts(self) -> list[int]:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[0])  # one column says how many rows there are
        one = pa.ipc.open_file(pa.OSFile(str(self._path)), options=options)
        return [one.get_batch(number).num_rows for number in range(one.num_record_batches)]

    def batches(self, columns: list[str]) -> Iterator[Any]:
        for number in range(self._reader.num_record_batches):
            batch = self.group(number, columns)
            for start in range(0, batch.num_rows, _ROWS):
                yield batch.slice(start, _ROWS)

    def group(self, number: int, columns: list[str] | None) -> Any:
        batch = self._reader.get_batch(number)
        return batch if columns is None else batch.select(columns)


def _stored(file: files.File) -> pathlib.Path:
    """The stream as an Arrow file in the cache, written once."""
    import pyarrow as pa

    path = cache.root() / "arrow" / f"{file.digest}.arrow"
    if cache.used(path, file.name):
        return path

    def write(temporary: pathlib.Path) -> None:
        with pa.ipc.open_stream(pa.OSFile(str(file.path))) as stream, open(temporary, "wb") as target:
            # A stream may replace dictionaries on its way, which a file cannot.
            plain = pa.schema([f.with_type(_decoded(f.type)) for f in stream.schema], stream.schema.metadata)
            with pa.ipc.new_file(target, plain) as writer:
                for batch in stream:
                    writer.write_table(pa.Table.from_batches([batch]).cast(plain), max_chunksize=_ROWS)
        file.check()

    cache.clear_left(path.parent)
    cache.write_atomic(path, write, file.name)
    return path


def _decoded(of: Any) -> Any:
    """The type of the values of a pyarrow type that has a dictionary; others as they are."""
    import pyarrow as pa

    return of.value_type if pa.types.is_dictionary(of) else of
