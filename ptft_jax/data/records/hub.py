"""`hf:` Hugging Face datasets: a folder by `save_to_disk`, or NAME[:CONFIG] on the hub, through the `datasets` package."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.formats import Reading
from ptft_jax.data.records import columnar, files, remote
from ptft_jax.data.records.base import Record
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource
from ptft_jax.data.records.table import described_splits, own_splits
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import nearest


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`. Raises UserError where `datasets` is not installed, the hub
    cannot be reached, or the name or configuration is not there."""
    try:
        import datasets
    except ImportError as e:
        raise reference.error(f"needs the package datasets ({e}); install it with: pip install 'ptft_jax[hf]'") from e
    found = _on_disk(reference, datasets) if _is_path(reference.name) else _on_hub(reference, datasets)
    if not isinstance(found, dict):  # a Dataset, saved without splits
        found = {"train": found}
    own = own_splits(reference, list(found), files.ALIASES)

    def shards(name: str) -> tuple[list[HubSplit], tuple[()]]:
        return [HubSplit(f"{reference.name}/{name}", found[name], reference.columns)], ()

    described, left_out = described_splits(own, list(found))
    return TableSource(reference, broken, own, shards, described=described, left_out=left_out)


class HubSplit:
    """A split of a dataset, its examples numbered from 0. Images and sounds are not decoded."""

    def __init__(self, name: str, dataset: Any, columns: tuple[str, ...] | None):
        self.name = name
        columnar.check_columns(columns, dataset.column_names, name)
        self._data = dataset.select_columns(list(columns)) if columns else dataset
        # The Arrow files hold every example; which of them, in which order, is in the indices.
        paths = [pathlib.Path(f["filename"]) for f in dataset.cache_files]
        chosen = dataset._indices
        self.files = {str(path): files.content_digest(path, str(path)) for path in paths}
        parts = list(self.files.values())
        parts += [cache.digest(*(str(c) for c in chosen.column(0).to_pylist()))] if chosen is not None else []
        self.key = f"hf {columns} {len(dataset)} {' '.join(parts)}" if paths else ""

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        number = 0
        data = self._data.select_columns(reading.needed(self._data.column_names, id_column))
        for rows in data.with_format("arrow").iter(1024):
            for record in columnar.records(rows, reading):
                yield Found(0, 0, number, record)
                number += 1

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        import datasets

        features = self._data.features.items()
        return {column: tuple(f.names) for column, f in features if isinstance(f, datasets.ClassLabel) and f.names}

    def open(self, reading: Reading) -> _Reader:
        return _Reader(self._data.with_format("arrow"), reading)

    def check(self) -> None:
        """Its files are held open by the dataset."""

    def place(self, number: int) -> str:
        return f"example {number}"


class _Reader:
    def __init__(self, data: Any, reading: Reading):
        self._data, self._reading = data, reading

    def read(self, row: np.void) -> Record:
        number = int(row["number"])
        record = next(columnar.records(self._data[number : number + 1], self._reading))
        assert not isinstance(record, Broken)  # the index has none that is
        return record


def _is_path(name: str) -> bool:
    return remote.is_url(name) or name.startswith((".", "/", "~")) or pathlib.Path(name).exists()


def _on_disk(reference: Reference, datasets: Any) -> Any:
    path = remote.copy_folder(reference.name) if remote.is_url(reference.name) else pathlib.Path(reference.name)
    path = path.expanduser()
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise reference.error(f"no such folder{nearest(path.name, beside)}")
    if not any((path / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
        raise reference.error(
            "the folder was not written by save_to_disk (it has neither dataset_dict.json nor state.json); files of rows "
            "are read by jsonl:, parquet: and csv:"
        )
    try:
        return datasets.load_from_disk(str(path))
    except Exception as e:  # damaged files fail in pyarrow, json and datasets, each in its own way
        raise reference.error(f"cannot be loaded: {_first_line(e)}") from e


def _on_hub(reference: Reference, datasets: Any) -> Any:
    name, _, config = reference.name.partition(":")
    try:
        return datasets.load_dataset(name, config or None)
    except Exception as e:  # no network, no such dataset or configuration, no permission, damaged downloads
        raise reference.error(
            f"cannot be loaded from the hub, and no folder has this name ({type(e).__name__}: {_first_line(e)})"
        ) from e


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300]
