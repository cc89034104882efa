"""A folder of images: FOLDER/CLASS/..., FOLDER/SPLIT/CLASS/..., or images without classes."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

from ptft_jax.data import cache
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.shards import FileImages
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Skipped
from ptft_jax.data.records.known import Known
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.errors import UserError, few, listed

_WORDS = {word: split for split, words in files.ALIASES.items() for word in words}


def splits(reference: Reference, root: pathlib.Path, left_out: Skipped) -> Mapping[str, FileImages]:
    """The images of each split by its folder's name; all of them as "train" where no folder is called after a split.

    Args:
      left_out: is told of files that are no images.

    Raises:
      UserError: no image, a class without one, images beside the folders of classes, folders of splits beside others.
    """
    options = {split: reference.options[split] for split in SPLITS if split in reference.options}
    inside = _folders(root)
    named = set(options.values()) or {name for name in inside if name.lower() in _WORDS}
    if missing := sorted(set(options.values()) - set(inside)):
        raise reference.error(f"no folder {missing[0]!r} in it; there are {few(inside) or 'none'}")
    if named and not options and (others := sorted(set(inside) - named)):
        raise reference.error(
            f"{', '.join(sorted(named))} are called after splits, and {few(others)} beside {'it' if len(named) == 1 else 'them'} are not: "
            "name the folders of splits with train=, validation=, test="
        )
    found: dict[str, tuple[list[str], list[str]]] = {}
    for split in sorted(named) or [""]:
        found[(split if options else split.lower()) or "train"] = _of_split(reference, root, split, left_out)
    every = [str(root / name) for names, _ in found.values() for name in names]
    known = Known(every)
    made = {split: _with_digests(root, *both, known) for split, both in found.items()}
    known.save()
    return made


def _of_split(reference: Reference, root: pathlib.Path, split: str, left_out: Skipped) -> tuple[list[str], list[str]]:
    """(names of the files from `root`, the class of each or [])."""
    folder, classes = root / split, _folders(root / split)
    direct = [name for name in _files(folder, deep=False) if _image(name, folder, left_out)]
    shown = f"{reference.name}/{split}" if split else reference.name
    if not classes:
        if not direct:
            raise reference.error(f"{shown}: no image in it ({', '.join(decoding.SUFFIXES)})")
        return [os.path.join(split, name) for name in direct], []
    if direct:
        raise reference.error(
            f"{shown}: {len(direct):,} images beside the folders of classes {few(classes)}, such as {direct[0]}: which class they have is not "
            "said; put them into a folder of their own"
        )
    names, labels, empty = [], [], []
    for label in classes:
        images = [name for name in _files(folder / label, deep=True) if _image(name, folder / label, left_out)]
        empty += [] if images else [f"{shown}/{label}"]
        names += [os.path.join(split, label, name) for name in images]
        labels += [label] * len(images)
    if empty:
        raise reference.error(f"a class without an image ({', '.join(decoding.SUFFIXES)}):{listed(empty)}")
    return names, labels


def _image(name: str, folder: pathlib.Path, left_out: Skipped) -> bool:
    """Whether a file is an image by its ending; others are noted."""
    if os.path.basename(name).startswith("."):
        left_out.add(str(folder / name), "hidden")
        return False
    suffix = pathlib.PurePath(name).suffix.lower()
    if suffix not in decoding.SUFFIXES:
        left_out.add(str(folder / name), "another ending", f"{suffix or 'no ending'} (no image)")
        return False
    return True


def _folders(folder: pathlib.Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as e:
        raise UserError(f"{folder}: cannot be read: {e.strerror or e}") from e


def _files(folder: pathlib.Path, *, deep: bool) -> list[str]:
    """Names of files from `folder`, sorted; links to folders are followed, those that lead back are not."""
    found, seen = [], set()
    for at, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        inside[:] = sorted(name for name in inside if deep and not name.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        found += [os.path.relpath(os.path.join(at, name), folder) for name in names]
    return sorted(found)


def _with_digests(root: pathlib.Path, names: list[str], labels: list[str], known: Known) -> FileImages:
    digests = {}
    for name in names:
        path = root / name
        try:
            digests[str(path)] = known.digest(path, str(path), os.stat(path))
        except OSError as e:
            raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e
    parts = (part for name, label in zip(names, labels or names) for part in (name, label, digests[str(root / name)]))
    return FileImages(root, names, labels, digests, cache.digest("pictures-1", *parts))
