"""What was written and scored so far of data that a model makes, so that a command that was killed goes on there."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.runs.files import read_json, write_json

PART = 256  # texts that are written, or scored, before they are kept
T = TypeVar("T")


class Journal:
    """Values by their names, in a folder of parts, each whole or not at all; without a folder nothing is kept.

    A value is known by all that it follows from: one of another model, other settings or other data is made again.
    """

    def __init__(self, folder: pathlib.Path | None = None, key: str = ""):
        """`key`: what all values follow from."""
        self._folder, self._key = folder, key
        self.found = 0  # values that were there

    def kept(self, name: str, given: Sequence[Any], make: Callable[[], T]) -> T:
        """The value `name`, of JSON's types, which follows from `given`, of such, too; made where it is not there. Raises UserError where it
        cannot be kept."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.json"
        known = cache.digest(self._key, json.dumps(given))
        try:
            there = read_json(path) if path.is_file() else {}
        except (OSError, UserError):  # cut off by a machine that stopped
            there = {}
        if isinstance(there, dict) and there.get("of") == known:
            self.found += 1
            return there["value"]
        value = make()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"of": known, "value": value})
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e}") from e
        return value


def beside(out: pathlib.Path) -> pathlib.Path:
    """The folder of the parts of what is to be in `out`."""
    return out.with_name(f"{out.name}.parts")
