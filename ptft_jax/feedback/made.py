"""The folder of what was made of a model's answers."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.runs.files import write_json, write_text

REVISED, PAIRS, ALL, FACTS = "revised.jsonl", "pairs.jsonl", "feedback.jsonl", "feedback.json"


@dataclasses.dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
      revised: prompts and completions, to be fine-tuned on.
      pairs: prompts with a better and a worse answer.
      rows: of each prompt, all that was written.
      facts: what it was made of, and counts.
    """

    revised: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    facts: dict[str, Any]

    def write(self, out: pathlib.Path) -> None:
        """Writes a folder, whole or not at all: revised.jsonl and pairs.jsonl where they have rows, feedback.jsonl and feedback.json.
        Raises UserError as `check_out`."""
        check_out(out)
        with cache.writing(out):
            self._write(out)

    def _write(self, out: pathlib.Path) -> None:
        temporary = cache.folder_beside(out)
        try:
            for name, rows in ((REVISED, self.revised), (PAIRS, self.pairs), (ALL, self.rows)):
                if rows:
                    write_text(temporary / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            write_json(temporary / FACTS, self.facts)
            out.parent.mkdir(parents=True, exist_ok=True)
            cache.as_new(temporary)
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_out(out: pathlib.Path) -> None:
    """Raises UserError where something is there, or where no folder can be made."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out={out}: exists; name another folder, or delete this one")
    there = next(parent for parent in out.absolute().parents if parent.exists())
    if not there.is_dir():
        raise UserError(f"--out={out}: cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out={out}: cannot be written: nothing may be written to {there}")
