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
from ptft_jax.parallel import processes
from ptft_jax.runs.checkpoint import together
from ptft_jax.runs.files import read_rows, write_text
from ptft_jax.runs.workdir import Workdir

FORM = 1  # of the files


class Files:
    """The files of a run's rollouts, of `updates` steps each, by their numbers."""

    def __init__(self, workdir: pathlib.Path, updates: int, data: str):
        """`data`: what the run's training data are known by."""
        self.workdir, self._updates, self._data = workdir, updates, data

    def path(self, number: int) -> pathlib.Path:
        return Workdir(self.workdir).rollout(number)

    def header(self, number: int) -> dict[str, Any]:
        """What the file of a rollout is known by."""
        return {
            "rollout": number,
            "steps": [number * self._updates, (number + 1) * self._updates],
            "run_id": Workdir(self.workdir).run_id,
            "data": self._data,
            "form": FORM,
        }

    def read(self, number: int) -> list[dict[str, Any]] | None:
        """As `read`, of this run's; what process 0 finds. All have to call it."""
        path, header = self.path(number), self.header(number)
        return processes.shared(together(lambda: read(path, header) if processes.main() else None))

    def before(self, number: int) -> list[dict[str, Any]]:
        """The answers of a rollout that was made before, none where there are none that can be read."""
        try:
            return read(self.path(number), self.header(number)) or []
        except UserError:
            return []

    def write(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """By process 0. All have to call it. Raises UserError."""

        def keep() -> None:
            try:
                write(self.path(number), self.header(number), rows)
            except OSError as e:
                raise UserError(f"{self.path(number)}: cannot be written: {e}") from e

        together(lambda: keep() if processes.main() else None)


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
