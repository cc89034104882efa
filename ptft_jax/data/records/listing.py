"""Which files a source has, and which split each belongs to."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import glob
import os
import pathlib
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ptft_jax.data.records import remote, shard_sets
from ptft_jax.data.records.base import Skipped
from ptft_jax.data.records.files import ALIASES, COMPRESSED, canonical_split, suffix
from ptft_jax.data.records.reference import SPLITS, SUFFIXES, Reference
from ptft_jax.errors import UserError, listed, nearest

_WORDS = {word: split for split, words in ALIASES.items() for word in words}
_PARTS = ("part", "parts", "shard", "shards", "chunk", "file", "v")  # of numbers that may follow the word of a split


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes:
      splits: split -> its files, in their order.
      left_out: what lies beside them and is not read.
    """

    splits: Mapping[str, list[str]]
    left_out: Skipped

    def described(self, split: str) -> str:
        """The files of a split, for people: "train.jsonl", "3 files, a.jsonl to c.jsonl"."""
        names = [_last(name) for name in self.splits[split]]
        return names[0] if len(names) == 1 else f"{len(names):,} files, {names[0]} to {names[-1]}"


class Named(NamedTuple):
    """What a name says of its split.

    Attributes:
      split: the one that it says, None for none.
      doubtful: the splits that it may mean, where it does not say one.
    """

    split: str | None
    doubtful: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=1 << 12)  # of folders that many files are in
def named(name: str) -> Named:
    """What the name of a file or folder says of its split, by its words: runs of letters, whatever their case.

    A word of `files.ALIASES` that it begins with, or that is its last one, says it: train-v2.json, gsm8k_test.jsonl,
    x.dev.csv, TEST. Endings, compression, -00000-of-00003 and words of numbers (part 3) do not count. A word in the middle
    (my_test_data) is in doubt, and so are several that differ (train_test). latest and contest are other words.
    """
    stem = re.sub(r"[-._]\d+-of-\d+", "", name.lower())
    while pathlib.PurePosixPath(stem).suffix in (*COMPRESSED, *SUFFIXES):
        stem = stem[: stem.rindex(".")]
    # A run of letters behind a digit is part of a longer word.
    found = [match.group(2) if not match.group(1) else "" for match in re.finditer(r"(\d?)([^\W\d_]+)", stem)]
    said = frozenset(_WORDS[word] for word in found if word in _WORDS)
    last = next((word for word in reversed(found) if word not in _PARTS), "")
    if len(said) == 1 and (canonical_split(stem) or last in _WORDS):
        return Named(*said)
    return Named(None, said)


def find(reference: Reference, suffixes: Iterable[str], *, by_name: bool = True) -> Listing:
    """The files of each split that a source names: those of its options; else, in a folder or a glob, those whose names, or
    whose folders' names, say a split (`named`; unless not `by_name`); else all of them, as "train".

    Raises:
      UserError: nothing there, no file of these suffixes; what cannot be read; an incomplete set of -00000-of-00003, a file
        that is there twice; names that say more than one split, or none among others that do.
    """
    suffixes = tuple(suffixes)
    left_out = Skipped()
    what, names = _listed(reference, reference.name, suffixes, left_out)
    given = {split: reference.options[split] for split in SPLITS if split in reference.options}
    if what == "file" and "train" in given:
        raise reference.error("train= names files in a folder, and the source is a single file: leave one of them out")
    base = reference.name if what == "folder" else _base(reference.name)
    found = {
        split: _listed(reference, _join(base, pattern), suffixes, Skipped())[1] for split, pattern in given.items()
    }
    owner = {_identity(name): split for split, group in found.items() for name in group}
    if sum(len({_identity(name) for name in group}) for group in found.values()) > len(owner):
        raise reference.error("a file belongs to more than one split: see train=, validation=, test=")
    rest = [name for name in names if _identity(name) not in owner] if owner else names
    if "train" in given:
        for name in rest:
            left_out.add(name, "named by none of train=, validation=, test=")
        return _checked(reference, found, left_out)
    groups: dict[str | None, list[str]] = {}
    doubtful: list[str] = []
    for name in rest:
        split, doubt = _split_of(reference, name, base) if by_name and what != "file" else Named(None)
        groups.setdefault(split, []).append(name)
        if doubt - {"train"}:
            doubtful.append(name)
    if doubtful:
        raise reference.error(
            "it cannot be told which split these are, by a word in the middle of their names or by several words: name the "
            f"files of each with train=, validation=, test={listed(doubtful)}"
        )
    if set(groups) <= {None}:
        if not rest and not (found and not reference.trains):
            raise reference.error("every file belongs to validation or test: nothing is left to train on")
        return _checked(reference, {**({"train": rest} if rest else {}), **found}, left_out)
    if None in groups:
        raise reference.error(
            f"some files are called after a split ({', '.join(SPLITS)}) and these are not: rename them, or name the files "
            f"of each split with train=, validation=, test={listed(groups[None])}"
        )
    both = [split for split in found if split in groups]
    if both:
        raise reference.error(f"{both[0]}= names files, and others are called {both[0]} too:{listed(groups[both[0]])}")
    if "train" not in groups and reference.trains:
        raise reference.error(f"no file is called 'train', and these belong to other splits:{listed(rest)}")
    return _checked(reference, {**groups, **found}, left_out)  # type: ignore[dict-item]


def _checked(reference: Reference, splits: Mapping[str, list[str]], left_out: Skipped) -> Listing:
    """The listing, each file once. Raises UserError for a file in two splits, and for incomplete sets."""
    first: dict[str, tuple[str, str]] = {}
    kept: dict[str, list[str]] = {split: [] for split in splits}
    for split, names in splits.items():
        for name in names:
            other, its_split = first.setdefault(_identity(name), (name, split))
            if its_split != split:
                raise reference.error(f"{other} is {its_split}, and {name}, a link to the same file, is {split}")
            if other is name:
                kept[split].append(name)
            else:
                left_out.add(name, f"the same file as {other}", "the same file as another")
    shard_sets.check(reference, [name for names in kept.values() for name in names], _exists)
    return Listing(kept, left_out)


def _listed(reference: Reference, name: str, suffixes: Collection[str], left_out: Skipped) -> tuple[str, list[str]]:
    """Whether a name is a "file", "folder" or "glob", and the files that it means. What is beside them is noted."""
    if remote.is_url(name):
        what, names, beside = remote.listing(name)
    else:
        what, names, beside = _local_listing(name)
    for other, why in beside:
        # What leads nowhere may be a file that was to be read, or a folder of them, unless its ending says otherwise.
        if why not in (_HIDDEN, _FOLDER) and (what != "folder" or suffix(other) in ("", *suffixes)):
            raise UserError(f"{other}: {why}")
        left_out.add(other, why)
    if what == "folder":
        others = [n for n in names if suffix(n) not in suffixes]
        names = [n for n in names if suffix(n) in suffixes]
        if not names:
            kinds = {SUFFIXES[suffix(n)] for n in others if suffix(n) in SUFFIXES}
            meant = f" (did you mean {', '.join(f'{kind}:{name}' for kind in sorted(kinds))}?)" if kinds else ""
            have = f"{meant}; it has {listed(others)}" if others else ""
            raise reference.error(f"the folder {name} holds no {', '.join(suffixes)} file{have}")
        for other in others:
            left_out.add(
                other, "another ending", f"{suffix(other)} (another ending)" if suffix(other) else "without an ending"
            )
    if what == "glob" and not names:
        raise reference.error(f"{name} matches no file, only:{listed(f'{other}: {why}' for other, why in beside)}")
    if what == "none":
        near = f": {name}" if name != reference.name else ""
        raise reference.error(f"no such file or folder{near}{nearest(_last(name), names)}")
    return what, names


Beside = list[tuple[str, str]]  # (path, why it is not read)
_HIDDEN = "hidden"
_FOLDER = "a folder; the pattern ** reads what is in it"


def _local_listing(name: str) -> tuple[str, list[str], Beside]:
    try:
        return _found_there(name)
    except OSError as e:  # of a folder around it
        raise UserError(f"{e.filename or name}: cannot be read: {e.strerror or e}") from e


def _found_there(name: str) -> tuple[str, list[str], Beside]:
    path = pathlib.Path(name).expanduser()
    beside: Beside = []
    if path.is_file():
        return "file", [name], beside
    if path.is_dir():
        return "folder", sorted(_walk(str(path), beside)), sorted(beside)
    if glob.has_magic(name):
        matched = sorted((_deep if "**" in name.split("/") else _shallow)(str(path), beside))
        if matched or beside:
            return "glob", matched, beside
    return "none", [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [], beside


def _shallow(pattern: str, beside: Beside) -> Iterator[str]:
    """The files that a pattern without ** matches."""
    parts = pattern.split("/")
    for number, part in enumerate(parts):  # a folder that cannot be read is passed over by glob
        if glob.has_magic(part):
            before = "/".join(parts[:number]) or ("/" if pattern.startswith("/") else ".")
            for folder in filter(os.path.isdir, glob.glob(before)):
                _entries(folder)
    for one in glob.glob(pattern):
        if os.path.isdir(one):
            beside.append((one, _FOLDER))
        elif problem := _problem(one):
            beside.append((one, problem))
        else:
            yield one


def _deep(pattern: str, beside: Beside) -> Iterator[str]:
    """The files that a pattern with ** matches: by a walk, as glob follows links in circles."""
    base = _base(pattern)
    wanted, noted = pattern[len(base) :].strip("/").split("/"), []
    start = base or "."
    if not os.path.isdir(start):
        return

    def fits(path: str) -> bool:
        return _matches(os.path.relpath(path, start).split("/"), wanted)

    for path in _walk(start, noted):
        if fits(path):
            yield path if base else os.path.relpath(path, start)
    beside += [(path, why) for path, why in noted if why != _HIDDEN and fits(path)]


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[n:], wanted[1:]) for n in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _walk(folder: str, beside: Beside, above: tuple[str, ...] = ()) -> Iterator[str]:
    """The files in a folder, also behind links; not those that are hidden, or in a hidden folder, nor what is no file, which
    are noted. Raises UserError for a folder that cannot be read."""
    above = (*above, os.path.realpath(folder))
    for entry in sorted(_entries(folder), key=lambda e: e.name):
        link = entry.is_symlink()
        if entry.name.startswith("."):
            beside.append((entry.path, _HIDDEN))
        elif not (os.path.isdir(entry.path) if link else entry.is_dir()):
            # What the folder itself tells of an entry saves a question for each of many files.
            if (link or not entry.is_file()) and (problem := _problem(entry.path)):
                beside.append((entry.path, problem))
            else:
                yield entry.path
        elif os.path.realpath(entry.path) not in above:  # else a link to a folder that holds it
            yield from _walk(entry.path, beside, above)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as e:
        raise UserError(f"{folder}: the folder cannot be read: {e.strerror or e}") from e


def _problem(path: str) -> str:
    """Why a path leads to no file, "" where it does."""
    try:
        mode = os.stat(path).st_mode
    except OSError as e:
        target = f" (a link to {os.readlink(path)})" if os.path.islink(path) else ""
        return f"cannot be read{target}: {e.strerror or e}"
    return "" if stat.S_ISREG(mode) else "neither a file nor a folder"


def _split_of(reference: Reference, name: str, base: str) -> Named:
    """By all folders below the base, and the file, which must not say different splits."""
    if not remote.is_url(base):
        base = str(pathlib.Path(base).expanduser())  # as the names of files in it are spelled
    inside = name[len(base) :] if base != "." else name
    parts = [named(part) for part in inside.split("/") if part and part != "."]
    said = {part.split for part in parts if part.split}
    if len(said) > 1:
        return Named(None, frozenset(said))
    if said:
        return Named(*said)
    return Named(None, frozenset(split for part in parts for split in part.doubtful))


def _identity(name: str) -> str:
    """Text that two names of one file share."""
    if remote.is_url(name):
        return name
    found = os.path.expanduser(name)
    try:
        info = os.stat(found)
    except OSError:  # said when it is opened
        return found
    return f"{info.st_dev} {info.st_ino}"


def _exists(name: str) -> bool:
    return remote.exists(name) if remote.is_url(name) else pathlib.Path(name).expanduser().exists()


def _join(base: str, pattern: str) -> str:
    """A path that an option names: as it is if it is a URL or absolute, else from the folder of the source."""
    if remote.is_url(pattern) or pathlib.Path(pattern).expanduser().is_absolute():
        return pattern
    return f"{base.rstrip('/')}/{pattern}" if base else pattern


def _base(name: str) -> str:
    """The folder that a file or a glob lies in, up to the first wildcard."""
    parts = name.split("/")
    until = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[: min(until, len(parts) - 1)]) or ("/" if name.startswith("/") else "")


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
