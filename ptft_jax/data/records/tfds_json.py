"""The TFDS feature of columns that TFDS's own features cannot hold exactly. A module of its own, for TFDS imports it by
the name that it wrote beside the data."""

from __future__ import annotations

import json
from typing import Any

import tensorflow_datasets as tfds


class Json(tfds.features.Text):
    """Any value of JSON's types, as its text in UTF-8: nulls, lists in lists, objects of which no two are alike."""

    def encode_example(self, example_data: Any) -> Any:
        return super().encode_example(json.dumps(example_data, ensure_ascii=False, allow_nan=False))

    def decode_example_np(self, example_data: bytes) -> Any:
        return json.loads(example_data)
