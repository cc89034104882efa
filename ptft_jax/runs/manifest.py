"""Which files a checkpoint consists of, so that damage to one can be proven and told from other failures of reading it."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Iterable

from ptft_jax.runs.workdir import Checkpoint

MISSING = "is missing"  # how a line of `damage` ends


def write(folder: pathlib.Path, parts: Iterable[str]) -> None:
    """Records every file below the subfolders `parts` of `folder`, with its size in bytes and its digest, in its manifest
    (`ptft_jax.runs.workdir.Checkpoint`)."""
    files = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _digest(path)]
    Checkpoint(folder).manifest.write_text(json.dumps(files, indent=1), encoding="utf-8")


def damage(
    folder: pathlib.Path, *, contents: bool, part: str = "", share: tuple[int, int] = (0, 1)
) -> list[str] | None:
    """How the files in `folder` differ from those that were written, a line each; None where no record was written.

    Args:
      contents: also read files and compare their digests; else only names and sizes.
      part: only the files below this subfolder; "" = all.
      share: (k, n): of the contents only those of each n-th file from the k-th on.

    Raises:
      OSError: a file that is there cannot be read. That is no damage.
    """
    try:
        recorded = json.loads(Checkpoint(folder).manifest.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return [f"{Checkpoint(folder).manifest.name} is not JSON"]
    lines, whole = [], []
    for name, (size, digest) in recorded.items():
        path = folder / name
        if part and not name.startswith(f"{part}/"):
            continue
        if not path.is_file():
            lines.append(f"{name} {MISSING}")
        elif path.stat().st_size != size:
            lines.append(f"{name} has {path.stat().st_size} bytes, {size} were written")
        else:
            whole.append((name, digest))
    if contents:
        mine = whole[share[0] :: share[1]]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = pool.map(lambda one: _digest(folder / one[0]), mine)
            lines += [
                f"{name} has other contents than were written" for (name, old), new in zip(mine, found) if new != old
            ]
    return lines


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
