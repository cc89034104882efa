"""Datasets of TensorFlow Datasets made of any of our sources, through TFDS's public API: ArrayRecord, no TensorFlow."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ptft_jax.data.records.base import Record, Records
from ptft_jax.errors import UserError

# The kinds of values. A list is ("list", kind), of nothing yet where that is None; an object ("object", {key: kind}).
_SCALARS = ("text", "bool", "int", "float")
_JSON = "json"


def write_tfds(splits: Mapping[str, Records], name: str, version: str, folder: str | pathlib.Path) -> pathlib.Path:
    """Writes records as the TFDS dataset FOLDER/NAME/VERSION, which `tfds:NAME?dir=FOLDER` and TFDS itself read.

    Records keep their order. A column that a record lacks is written as null.

    Args:
      splits: name of a split -> its records.
      name: lower-case letters, digits and "_", as TFDS wants it.
      version: "1.0.0".

    Returns:
      The folder of the dataset.

    Raises:
      UserError: a name or version that TFDS does not take, no records, or a dataset that is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"dataset name {name!r}: expected lower-case letters, digits and '_', a letter first")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UserError(f"dataset version {version!r}: expected three numbers, like 1.0.0")
    empty = [split for split, records in splits.items() if not len(records)]
    if empty or not splits:
        raise UserError(f"dataset {name}: no records in {', '.join(empty) or 'no split'}")
    path = pathlib.Path(folder).expanduser() / name / version
    if path.exists():
        raise UserError(f"{path}: exists; give the dataset another version, or delete the folder")
    builder = builder_class(splits, name, version)(data_dir=str(pathlib.Path(folder).expanduser()))
    builder.download_and_prepare(file_format="array_record")
    return path


def builder_class(splits: Mapping[str, Records], name: str, version: str) -> type:
    """The `tfds.core.GeneratorBasedBuilder` that generates these records, not registered with TFDS."""
    import tensorflow_datasets as tfds

    kinds = infer(record for records in splits.values() for record in records)
    features = {column: _feature(kind) for column, kind in kinds.items()}
    named = {column: n for records in splits.values() for column, n in getattr(records, "class_names", {}).items()}
    labels = {column: n for column, n in named.items() if kinds.get(column) == "int"}
    features |= {column: tfds.features.ClassLabel(names=list(names)) for column, names in labels.items()}

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def generate(self: Any, records: Records) -> Iterable[tuple[int, Record]]:
        for i, record in enumerate(records):
            yield i, {column: record.get(column) for column in features}

    body = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "__module__": __name__,
        "__doc__": f"Records of {', '.join(sorted({records.reference for records in splits.values()}))}.",
        "_info": info,
        "_split_generators": lambda self, _: {s: self._generate_examples(r) for s, r in splits.items()},
        "_generate_examples": generate,
    }
    # A class made with its name, for TFDS names builders when their class is made.
    with tfds.core.registered.skip_registration():
        return type(name, (tfds.core.GeneratorBasedBuilder,), body)


def infer(records: Iterable[Record]) -> dict[str, Any]:
    """Column -> kind of its values, "json" where TFDS's features would not give back each exactly."""
    kinds: dict[str, Any] = {}
    counts: dict[str, int] = {}
    total = 0
    for record in records:
        total += 1
        for column, value in record.items():
            kind = _kind(value)
            kinds[column] = _both(kinds[column], kind) if column in kinds else kind
            counts[column] = counts.get(column, 0) + 1
    return {column: kind if counts[column] == total else _JSON for column, kind in kinds.items()}


def _kind(value: Any) -> Any:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else _JSON
    if isinstance(value, float):  # TFDS keeps floats as float32
        return "float" if abs(value) < 3e38 and float(np.float32(value)) == value else _JSON
    if isinstance(value, list):
        inner = functools.reduce(_both, map(_kind, value), None)
        flat = inner is None or inner in _SCALARS
        return ("list", inner) if flat or (inner[0] == "object" and set(inner[1].values()) <= set(_SCALARS)) else _JSON
    if isinstance(value, dict) and value and not any("/" in key for key in value):  # TFDS joins the keys with "/"
        inner = {key: _kind(v) for key, v in value.items()}
        return _JSON if _JSON in inner.values() else ("object", inner)
    return _JSON


def _both(a: Any, b: Any) -> Any:
    """The kind of a column that has values of both kinds."""
    if a is None or a == b:
        return b
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0]:
        if a[0] == "list":
            inner = a[1] if b[1] is None else _both(a[1], b[1])
            return _JSON if inner == _JSON else ("list", inner)
        if a[1].keys() == b[1].keys():
            inner = {key: _both(a[1][key], b[1][key]) for key in a[1]}
            return _JSON if _JSON in inner.values() else ("object", inner)
    return _JSON


def _feature(kind: Any) -> Any:
    import tensorflow_datasets as tfds

    from ptft_jax.data.records.tfds_json import Json

    if isinstance(kind, tuple):
        outer, inner = kind
        if outer == "list":
            return tfds.features.Sequence(_feature(inner or "text"))
        return tfds.features.FeaturesDict({key: _feature(one) for key, one in inner.items()})
    if kind in ("text", _JSON):
        return tfds.features.Text() if kind == "text" else Json()
    return tfds.features.Scalar({"bool": np.bool_, "int": np.int64, "float": np.float32}[kind])
