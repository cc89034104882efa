"""`text:` files of plain text, and the texts that need no account: `shakespeare:`, `stdlib:`. A record is a document:
{"text": ..., "name": ...}."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import operator
import zlib
from typing import ClassVar

import numpy as np

from ptft_jax.data import assets, cache
from ptft_jax.data.records import files, table, values
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.data.records.spans import refuse_binary
from ptft_jax.errors import UserError, listed, nearest

SUFFIXES = (".txt", ".md", ".rst", ".py", ".text")
EMBEDDED = {"shakespeare": tuple(assets.HELD_OUT), "stdlib": ("code", "prose")}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text, or bytes [start, end) of a file.

    Attributes:
      place: the file or title, for messages.
      digest: of the text.
      order: number made of the text, which decides on what side it falls.
    """

    name: str
    place: str
    digest: bytes
    order: int
    text: str | None = None
    file: files.File | None = None
    start: int = 0
    end: int = 0

    def read(self) -> str:
        if self.text is not None:
            return self.text
        return files.Descriptor(self.file).read(self.start, self.end).decode("utf-8")


class Documents:
    """A split of texts. Implements `Records`."""

    divided: ClassVar[tuple[str, ...]] = ()  # of texts no column is a label
    class_names: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self, reference: str, documents: list[Document]):
        self.reference = reference
        self.skipped = Skipped()
        self._documents = documents

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"records-1" + b"".join(d.digest for d in self._documents)).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Record:
        document = self._documents[operator.index(index)]
        return {"text": document.read(), "name": document.name}

    def where(self, index: int) -> str:
        return self._documents[index].place

    def keep(self, chosen: np.ndarray) -> None:
        """Leaves only the documents at these indices."""
        self._documents = [self._documents[i] for i in chosen]


def open_split(reference: Reference, split: str, held_out: float, broken: str) -> Documents:
    """The documents of a split, see `opening.open_records`.

    The plays and the modules of the standard library have splits of their own. Files are divided whole where there are
    enough of them, in an order made of their texts; else the last lines of each are held out.
    """
    if reference.kind in EMBEDDED:
        documents = _embedded(reference, split)
    else:
        own = files.find(reference, SUFFIXES, by_name=False)
        missing = [s for s in SPLITS if s not in own]
        divided = bool(missing) and split in ("train", *missing)
        documents = _documents(own["train" if divided else split])
        if divided:
            documents = _divide(reference, documents, missing, held_out)[split]
    if not documents:
        raise reference.error(f"the {split} split has no text")
    found = Documents(reference.text, documents)
    table.limit(reference, split, found)
    return found


def _embedded(reference: Reference, split: str) -> list[Document]:
    kind, name = reference.kind, reference.name
    if name not in EMBEDDED[kind]:
        raise reference.error(f"{kind} has {', '.join(EMBEDDED[kind])}{nearest(name, EMBEDDED[kind])}")
    pairs = (assets.shakespeare if kind == "shakespeare" else assets.stdlib)(name, split)
    return [Document(title, f"{kind}:{name}, {title}", _digest(text), 0, text) for title, text in pairs]


def _documents(names: list[str]) -> list[Document]:
    """The files, each whole. They are read once; what is to be known of them is then in the cache."""
    opened = [files.File.open(name, empty=True) for name in names]
    path = cache.root() / "texts" / cache.digest("texts-2", *(file.digest for file in opened))
    if not path.exists():
        read = [_read(file) for file in opened]
        empty = [file.name for file, text in zip(opened, read) if text is None]
        if empty:
            raise UserError(f"empty files:{listed(empty)}")
        cache.write_atomic(path, lambda temporary: temporary.write_text(json.dumps(read)))
    known = json.loads(path.read_bytes())
    return [
        Document(file.name, file.name, bytes.fromhex(digest), order, file=file, start=start, end=end)
        for file, (digest, order, start, end) in zip(opened, known)
    ]


def _read(file: files.File) -> tuple[str, int, int, int] | None:
    """Digest, place in the order of division, start and end of a text, None if there is none in it."""
    data = file.path.read_bytes()
    file.check()
    refuse_binary(data, file.name)
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0  # the mark that some editors begin UTF-8 files with
    try:
        text = data[start:].decode("utf-8") if start else data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, start + e.start) + 1
        raise UserError(
            f"{file.name}: not UTF-8 text at byte {start + e.start} (line {line}); convert it first"
        ) from None
    return (_digest(text).hex(), zlib.crc32(data), start, len(data)) if text.strip() else None


def _digest(text: str) -> bytes:
    """Of the text alone: where a file lies is no part of what is learned."""
    return values.digest({"text": text})


def _divide(
    reference: Reference, documents: list[Document], missing: list[str], share: float
) -> dict[str, list[Document]]:
    """Train from the front, then the missing splits: by whole documents where there are enough, else by text."""
    # In an order made of the texts themselves, so that file names (dates, topics) do not decide what is held out; and
    # by different texts, so that equal ones stay together.
    keys = {d.digest: d.order for d in documents}
    order = sorted(keys, key=lambda digest: (keys[digest], digest))
    held = round(len(order) * share)
    if not held:
        return _cut(reference, documents, missing, share)
    splits: dict[str, list[Document]] = {"train": [], **{name: [] for name in missing}}
    alike = collections.defaultdict(list)
    for document in documents:
        alike[document.digest].append(document)
    names = ["train"] * (len(order) - held * len(missing)) + [name for name in missing for _ in range(held)]
    for digest, name in zip(order, names):
        splits[name] += alike[digest]
    return splits


def _cut(
    reference: Reference, documents: list[Document], missing: list[str], share: float
) -> dict[str, list[Document]]:
    """The last lines of each document are held out. Cut at line ends, so that no line is on both sides."""
    splits: dict[str, list[Document]] = {"train": [], **{name: [] for name in missing}}
    for document in documents:
        lines = document.read().splitlines(keepends=True)
        if len(lines) <= len(missing):  # too short to cut: trained on, unless it is all there is
            if len(documents) == 1:
                *first, last = ["train", *missing]
                raise reference.error(f"{len(lines)} line(s) cannot be split into {', '.join(first)} and {last}")
            splits["train"].append(document)
            continue
        held = min(max(round(len(lines) * share), 1), (len(lines) - 1) // len(missing))
        counts = [len(lines) - held * len(missing)] + [held] * len(missing)
        start, line = document.start, 0
        for name, count in zip(splits, counts):
            text = "".join(lines[line : line + count])
            end = start + len(text.encode())
            splits[name].append(dataclasses.replace(document, digest=_digest(text), start=start, end=end))
            start, line = end, line + count
    for name, pieces in splits.items():
        if not any(piece.read().strip() for piece in pieces):
            raise reference.error(f"the {name} split has no text")
    return splits
