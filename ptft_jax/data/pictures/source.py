"""`images:NAME`: a folder with one folder per class, a list of files with labels, arrays, or images that are made here."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping

from ptft_jax.config.sources import SOURCES
from ptft_jax.data.pictures import arrays, decoding, digits, folders, letters, mnist, named_files
from ptft_jax.data.pictures.shards import Images, PictureShard
from ptft_jax.data.records import files
from ptft_jax.data.records.base import Skipped
from ptft_jax.data.records.reference import Reference
from ptft_jax.data.records.source import TableSource
from ptft_jax.data.records.table import own_splits
from ptft_jax.errors import nearest

_GENERAL = ("id", "max_pixels")
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Opened:
    """The images of a source.

    Attributes:
      splits: its own splits, by what it calls them -> what opens one.
      described: what each is, for people.
      left_out: what lies beside them.
      named: whether they are called train, validation and test already, as options say.
    """

    splits: Mapping[str, Callable[[], Images]]
    described: Mapping[str, str]
    left_out: Skipped = dataclasses.field(default_factory=Skipped)
    named: bool = False


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `ptft_jax.data.records.opening.open_source`. Raises UserError."""
    most = _most(reference)
    opened = _opened(reference, broken)
    splits = list(opened.splits)
    own = {name: name for name in splits} if opened.named else own_splits(reference, splits, files.ALIASES)

    def shards(name: str) -> tuple[list[PictureShard], tuple[()]]:
        return [PictureShard(reference.name, opened.splits[name](), most)], ()

    described = {split: opened.described[name] for split, name in own.items()}
    left_out = opened.left_out
    for name in opened.splits:
        if name not in own.values():
            left_out.add(
                f"{reference.name}: its split {name}", "named by none of train=, validation=, test=, nor called so"
            )
    return TableSource(reference, broken, own, shards, described=described, left_out=left_out)


def _opened(reference: Reference, broken: str) -> Opened:
    made = {"digits": digits, "letters": letters, "mnist": mnist}
    if reference.name in made:
        allowed(reference, made[reference.name].OPTIONS)
        found = made[reference.name].splits(reference)
        return Opened(
            {name: one for name, (one, _) in found.items()}, {name: words for name, (_, words) in found.items()}
        )
    path = pathlib.Path(os.path.expanduser(reference.name))
    suffix = path.suffix.lower()
    if path.is_dir():
        allowed(reference, _SPLITS)
        left_out = Skipped()
        found = folders.splits(reference, path, left_out)
        return Opened(
            {name: (lambda one=one: one) for name, one in found.items()},
            {n: f"{len(one):,} files" for n, one in found.items()},
            left_out,
        )
    if suffix in arrays.SUFFIXES:
        allowed(reference, _SPLITS)
        found = arrays.splits(reference, path)
        return Opened(
            {name: (lambda one=one: one) for name, one in found.items()},
            {name: f"{len(one):,} of its arrays" for name, one in found.items()},
        )
    kind = next((kind for kind in named_files.KINDS if suffix in SOURCES[kind].suffixes), "")
    if kind:
        inner = named_files.inner(reference, kind, broken)
        return Opened(
            {
                split: (lambda split=split: named_files.Listed.of(inner, split, path.parent, reference))
                for split in inner.own
            },
            inner.described,
            inner.left_out,
            named=True,
        )
    expected = f"a folder, a list ({', '.join(s for k in named_files.KINDS for s in SOURCES[k].suffixes)}), arrays ({', '.join(arrays.SUFFIXES)}), {' or '.join(made)}"
    what = "there is no such folder or file" if not path.exists() else "this is none of them"
    raise reference.error(f"expected {expected}: {what}{nearest(reference.name, made)}")


def allowed(reference: Reference, names: tuple[str, ...]) -> None:
    """Raises UserError for an option of other images."""
    for name in reference.options:
        if (
            name in ("train", "validation", "test", "partial", "content", "draws", "size", "questions")
            and name not in names
        ):
            raise reference.error(f"{reference.name} has no use for the option {name!r}")


def _most(reference: Reference) -> int:
    text = reference.options.get("max_pixels", str(decoding.MOST_PIXELS))
    if not text.isdecimal() or not int(text):
        raise reference.error(f"max_pixels={text}: expected a count of pixels, 1 or more")
    return int(text)
