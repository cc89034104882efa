"""The folder of runs that some verbs look at."""

from __future__ import annotations

import pathlib

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.runs import places


def chosen() -> pathlib.Path:
    """The one that --folder or words name; the working folder where none is. Raises UserError."""
    given = flags.FLAGS.folder
    if len(given) > 1:
        raise UserError(f"one folder at a time: {given[0]} or {given[1]}")
    folder = places.local(given[0] if given else ".", "--folder")
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"--folder={folder}: no such folder{nearest(folder.name, beside)}")
    return folder
