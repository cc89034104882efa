"""Answers that were sampled for training, on disk: a file for each rollout, to be looked at, and to be read again by a run that goes on
in the middle of it."""

from __future__ import annotations

import base64
import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.runs.files import read_rows, write_text


def write(path: pathlib.Path, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """A line that says what the rollout is of, and one for each answer; whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    first = {**header, "answers": len(rows), "digest": cache.digest(text)}
    write_text(path, json.dumps(first, ensure_ascii=False) + "\n" + text)


def read(path: pathlib.Path, header: Mapping[str, Any] | None = None) -> list[dict[str, Any]] | None:
    """The answers of a rollout with this header, by default any; None where there is none, another, or only part of it. Raises UserError
    where it is damaged."""
    first, *rows = read_rows(path) or [{}]
    digest = first.pop("digest", "")
    if "answers" not in first or first != {**(first if header is None else header), "answers": len(rows)}:
        return None
    if digest != cache.digest(path.read_bytes().partition(b"\n")[2]):
        raise UserError(f"{path}: is damaged: its answers are not as they were written")
    return rows


def packed(bits: np.ndarray) -> str:
    """uint8 [tokens, V / 8] as text; mostly zeros are short."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(bits).tobytes())).decode()


def unpacked(text: str, tokens: int) -> np.ndarray:
    """The inverse of `packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(tokens, -1)
