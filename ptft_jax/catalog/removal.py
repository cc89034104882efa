"""Taking runs away, but not what others were started from."""

from __future__ import annotations

import os
import pathlib
import shutil
import tarfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ptft_jax.catalog import index
from ptft_jax.errors import UserError, listed
from ptft_jax.runs import files, lineage, owner, places
from ptft_jax.runs.workdir import Workdir


def chosen(references: Sequence[str], within: str, field: str) -> list[pathlib.Path]:
    """The folders of the runs that are named, which may all be taken away together.

    Args:
      within: the folder below which runs are looked through that could have been started from them, beside those below the folders that
        the runs are in.
      field: what the runs were given as, for messages.

    Raises:
      UserError: one that is no run, is running, or that another run needs or was started from.
    """
    if not references:
        raise UserError(f"{field} is missing: a workdir, e.g. {field}=runs/first")
    found = []
    for reference in references:
        path = places.local(reference, f"{field}={reference}")
        Workdir(path).check(field)
        if owner.alive(path):
            raise UserError(f"{field}={reference}: it is running: stop it first")
        found.append(pathlib.Path(os.path.realpath(path)))
    _refuse_needed(found, {os.path.realpath(within), *(str(path.parent) for path in found)}, field)
    return found


def _refuse_needed(paths: Sequence[pathlib.Path], folders: Collection[str], field: str) -> None:
    others = {os.path.realpath(place) for folder in folders for place in index.runs(pathlib.Path(folder))}
    needed: dict[str, list[str]] = {}
    for place in sorted(others - set(map(str, paths))):
        for path in named_by(pathlib.Path(place)) & set(map(str, paths)):
            needed.setdefault(path, []).append(place)
    if needed:
        lines = [
            f"{path}: by {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}"
            for path, names in needed.items()
        ]
        raise UserError(
            f"{field}: other runs were started from these, or learned from them:{listed(lines)}\ntake those away first, or together"
        )


def named_by(path: pathlib.Path) -> set[str]:
    """The real paths of the runs that one was started from, made of, or taught by. Raises UserError for a damaged file."""
    here = Workdir(path)
    told = [files.read_json(file) for file in (here.lineage, here.teacher, here.recipe) if file.is_file()]
    found: set[str] = set()
    for text in _references(told):
        place = lineage.step_parted(lineage.parted(text)[0])[0]
        for base in (pathlib.Path(), path):  # relative ones, too: a folder that moved has them beside it
            found.add(os.path.realpath(base / os.path.expanduser(place)))
    return found


def _references(told: Any) -> Iterator[str]:
    """The texts under names of references, however deep."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            if name in ("workdir", "relative", "reference", "base") and isinstance(value, str):
                yield value
            elif name == "runs" and isinstance(value, list):
                yield from (one for one in value if isinstance(one, str))
                yield from _references(value)
            else:
                yield from _references(value)
    elif isinstance(told, list):
        for value in told:
            yield from _references(value)


def remove(path: pathlib.Path) -> None:
    """Deletes a run: under its name it is there as a whole or not at all."""
    away = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    path.rename(away)
    shutil.rmtree(away)


def archive(paths: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Writes runs into a new gzipped tar file, each as a folder of its name, and reads it back. Raises UserError where the file is there,
    two have one name, or what is read back is not what was written."""
    names = [path.name for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--run: two runs have the name {twice}: archive them apart")
    if out.exists():
        raise UserError(f"--out={out}: is there already")
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}")
    try:
        with tarfile.open(half, "w:gz") as packed:
            for path in paths:
                packed.add(path, arcname=path.name)
        with tarfile.open(half, "r:gz") as packed:
            sizes = {member.name: member.size for member in packed if member.isfile()}
        there = {
            f"{path.name}/{file.relative_to(path).as_posix()}": file.stat().st_size
            for path in paths
            for file in path.rglob("*")
            if file.is_file() and not file.is_symlink()
        }
        if sizes != there:
            raise UserError(f"--out={out}: a run changed while it was written; nothing was removed")
        half.rename(out)
    finally:
        half.unlink(missing_ok=True)
