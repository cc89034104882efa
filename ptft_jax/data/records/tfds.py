"""`tfds:` TensorFlow Datasets, read without TensorFlow: ArrayRecord files, through `as_data_source`."""

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
    """The source of that name, see `opening.open_source`: every feature is a column, and a sequence of features (the
    messages of a conversation) a list of objects. Raises UserError for an unknown dataset, and for one that cannot be
    prepared or read here (with what to install)."""
    builder = _builder(reference)
    own = own_splits(reference, list(builder.info.splits), files.ALIASES)

    def shards(name: str) -> tuple[list[TfdsSplit], tuple[()]]:
        return [TfdsSplit(reference, builder, name)], ()

    described, left_out = described_splits(own, list(builder.info.splits))
    return TableSource(reference, broken, own, shards, described=described, left_out=left_out)


class TfdsSplit:
    """A split of a prepared dataset, its examples numbered from 0."""

    def __init__(self, reference: Reference, builder: Any, split: str):
        self.name = f"tfds {reference.name}/{split}"
        features = builder.info.features
        columnar.check_columns(reference.columns, list(features), self.name)
        self._features = {key: features[key] for key in reference.columns or features}
        self._source = _data_source(reference, builder, split)
        names = [str(path) for path in (*builder.info.splits[split].filepaths, builder.data_path / "features.json")]
        self.key, self.files = "", {}
        if not any(map(remote.is_url, names)):  # files of a bucket are TFDS's to read: their content is not known here
            self.files = {name: files.content_digest(pathlib.Path(name), name) for name in names}
            self.key = cache.digest("tfds", str(reference.columns), *self.files.values())

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        for number in range(len(self._source)):
            yield Found(0, 0, number, self.record(number, reading))

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        import tensorflow_datasets as tfds

        labels = {key: f for key, f in self._features.items() if isinstance(f, tfds.features.ClassLabel)}
        return {key: tuple(f.names) for key, f in labels.items() if f.names}

    def open(self, reading: Reading) -> _Reader:
        return _Reader(self, reading)

    def check(self) -> None:
        """Its files are TFDS's to hold."""

    def place(self, number: int) -> str:
        return f"example {number}"

    def record(self, number: int, reading: Reading) -> Record | Broken:
        """An example. Any number of threads may read."""
        example = self._source[number]
        return columnar.converted({key: _rows(f, example[key]) for key, f in self._features.items()}, reading)


class _Reader:
    def __init__(self, split: TfdsSplit, reading: Reading):
        self._split, self._reading = split, reading

    def read(self, row: np.void) -> Record:
        return self._split.record(int(row["number"]), self._reading)  # type: ignore[return-value]  # none in the index is broken


def _rows(feature: Any, value: Any) -> Any:
    """TFDS keeps a sequence of objects as one object of sequences: turned back, at every depth."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Dataset):
        return [_rows(feature.feature, one) for one in value]
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            length = len(next(iter(value.values()), ()))
            return [_rows(inner, {key: column[i] for key, column in value.items()}) for i in range(length)]
        return [_rows(inner, one) for one in value]
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _rows(f, value[key]) for key, f in feature.items()}
    return value


def _builder(reference: Reference) -> Any:
    import tensorflow_datasets as tfds

    options = {"data_dir": reference.options["dir"]} if "dir" in reference.options else {}
    name = reference.name
    try:
        builder = tfds.builder(name, **options)
    except tfds.core.registered.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise reference.error(f"TFDS knows no such dataset{nearest(name, known)}") from None
    except (ImportError, ValueError, RuntimeError) as e:
        raise reference.error(_first_line(e)) from e
    if not builder.is_prepared():
        _prepare(reference, builder)
    return builder


def _data_source(reference: Reference, builder: Any, split: str) -> Any:
    try:
        return builder.as_data_source(split=split)
    except (NotImplementedError, ImportError) as e:
        raise reference.error(
            f"its files in {builder.data_path} are not ArrayRecord, the format that is read without TensorFlow "
            f"({_first_line(e)}). Prepare it again, once, where TensorFlow is installed: "
            f"tfds.builder({reference.name!r}).download_and_prepare(file_format='array_record')"
        ) from e


def _prepare(reference: Reference, builder: Any) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as e:
        raise reference.error(
            f"preparing this dataset needs more than reading it does ({_first_line(e)}). Install it, once, with: "
            "pip install 'ptft_jax[tfds]' (TensorFlow for CPU); afterwards the prepared files are read without it"
        ) from e
    except Exception as e:  # TFDS builders run code of their own: downloads, checksums, parsing
        raise reference.error(
            f"TFDS could not download and prepare it into {builder.data_path}: {_first_line(e)}"
        ) from e


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300]
