"""Which files a checkpoint consists of, so that damage to one can be proven and told from other failures of reading it."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable

NAME = "files.json"


def write(folder: pathlib.Path, parts: Iterable[str]) -> None:
    """Records every file below the subfolders `parts` of `folder`, with its size in bytes and its digest, in `folder`/NAME."""
    files = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _digest(path)]
    (folder / NAME).write_text(json.dumps(files, indent=1), encoding="utf-8")


def damage(folder: pathlib.Path, *, contents: bool) -> list[str] | None:
    """How the files in `folder` differ from those that were written, a line each; None where no record was written.

    Args:
      contents: also read every file and compare its digest; else only names and sizes.

    Raises:
      OSError: a file that is there cannot be read. That is no damage.
    """
    try:
        recorded = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return [f"{NAME} is not JSON"]
    lines = []
    for name, (size, digest) in recorded.items():
        path = folder / name
        if not path.is_file():
            lines.append(f"{name} is missing")
        elif path.stat().st_size != size:
            lines.append(f"{name} has {path.stat().st_size} bytes, {size} were written")
        elif contents and _digest(path) != digest:
            lines.append(f"{name} has other contents than were written")
    return lines


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
