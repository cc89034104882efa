"""`text:` files of plain text, and the texts that need no account: `shakespeare:`, `stdlib:`. A record is a document:
{"text": ..., "name": ...}."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data import assets, cache
from ptft_jax.data.formats import Reading
from ptft_jax.data.records import files, listing, looks, values
from ptft_jax.data.records import known as known_files
from ptft_jax.data.records.base import Record, Skipped
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.data.records.table import divide, limit
from ptft_jax.errors import UserError, listed, nearest

SUFFIXES = (".txt", ".md", ".rst", ".py", ".text")
EMBEDDED = {"shakespeare": tuple(assets.HELD_OUT), "stdlib": ("code", "prose")}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text, or bytes [start, end) of a file.

    Attributes:
      place: the file or title, for messages.
      digest: of the text, as records that hold nothing else have it.
      key: of the text, which decides on what side it falls.
    """

    name: str
    place: str
    digest: bytes
    key: bytes
    text: str | None = None
    file: files.File | None = None
    start: int = 0
    end: int = 0

    @property
    def size(self) -> int:
        """Bytes of its UTF-8."""
        return self.end - self.start if self.text is None else len(self.text.encode())

    def read(self) -> str:
        return "".join(self.blocks())

    def blocks(self) -> Iterator[str]:
        """The text, some at a time."""
        if self.text is not None:
            yield self.text
        elif self.file is not None:
            yield from files.decoded(files.blocks(self.file, self.start, self.end))


class Documents:
    """A split of texts. Implements `Records`."""

    class_names: ClassVar[dict[str, tuple[str, ...]]] = {}  # of texts no column is a label

    def __init__(self, reference: str, documents: list[Document], empty: Sequence[str] = ()):
        self.reference, self.empty = reference, list(empty)
        self.skipped = Skipped()
        self._documents = documents

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"records-2" + b"".join(d.digest for d in self._documents)).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def files(self) -> dict[str, str]:
        """Local files -> digests of their content."""
        found = {n: d for document in self._documents if document.file for n, d in document.file.noted().items()}
        return found | files.digests(self.empty)

    def __getitem__(self, index: int) -> Record:
        document = self._documents[operator.index(index)]
        return {"text": document.read(), "name": document.name}

    def long(self, index: int) -> Document | None:
        """The document, where it is so long that it is better read some at a time."""
        found = self._documents[operator.index(index)]
        return found if found.text is None and found.size > files.BLOCK else None

    def beginnings(self) -> Sequence[Record]:
        """The records, of which long ones have only the beginning."""
        return _Beginnings(self)

    def beginning(self, index: int) -> Record:
        document = self._documents[operator.index(index)]
        return {"text": next(document.blocks(), ""), "name": document.name}

    def where(self, index: int) -> str:
        return self._documents[index].place

    def keys(self, which: range | None = None) -> np.ndarray:
        some = self._documents if which is None else [self._documents[i] for i in which]
        return np.frombuffer(b"".join(d.key for d in some), np.uint64).reshape(-1, 2)

    def ids(self) -> np.ndarray:
        return np.zeros(len(self), np.uint64)

    def firsts(self) -> list[tuple[str, Record]]:
        return []  # all have the same columns

    def keep(self, chosen: np.ndarray) -> None:
        """Leaves only the documents at these indices."""
        self._documents = [self._documents[i] for i in chosen]

    def without(self, dropped: np.ndarray) -> Documents:
        """The split but for the documents at these indices."""
        left = set(range(len(self))) - set(dropped.tolist())
        return Documents(self.reference, [self._documents[i] for i in sorted(left)], self.empty)


class _Beginnings(Sequence):
    def __init__(self, documents: Documents):
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: Any) -> Any:
        return self._documents.beginning(index)

    def firsts(self) -> list[tuple[str, Record]]:
        return self._documents.firsts()


class TextSource:
    """A source of texts. Implements `Source`.

    The plays and the modules of the standard library have splits of their own. Files are divided whole where there are
    enough of them, by their texts; else the last lines of each are held out.
    """

    def __init__(self, reference: Reference):
        self.reference, self.left_out = reference, Skipped()
        if reference.kind in EMBEDDED:
            known = EMBEDDED[reference.kind]
            if reference.name not in known:
                raise reference.error(f"{reference.kind} has {', '.join(known)}{nearest(reference.name, known)}")
            self.own: tuple[str, ...] = SPLITS
            self.described: dict[str, str] = dict.fromkeys(SPLITS, "its own")
        else:
            found = listing.find(reference, SUFFIXES, by_name=False)
            self._names, self.left_out = found.splits, found.left_out
            self.own = tuple(found.splits)
            self.described = {split: found.described(split) for split in found.splits}
        self._read: dict[str, tuple[list[Document], list[str]]] = {}  # with the names of files without text

    def read_as(self, reading: Reading) -> TextSource:
        return self

    def whole(self, split: str = "train") -> Documents:
        """All documents of a split of its own."""
        if split not in self._read:
            if self.reference.kind in EMBEDDED:
                self._read[split] = _embedded(self.reference, split), []
            else:
                self._read[split] = _documents(self.reference, self._names[split])
        return self._made(split, *self._read[split])

    def files(self) -> dict[str, str]:
        """Local files -> digests of their content."""
        return {n: d for split in self.own for n, d in self.whole(split).files.items()}

    def divides(self, split: str, held_out: float) -> bool:
        self.whole()
        return split not in self.own and not _few(self._read["train"][0], held_out)

    def split(self, split: str, held_out: float) -> Documents:
        """The documents of a split: its own, or such a share of what is trained on."""
        missing = [s for s in SPLITS if s not in self.own]
        if missing and split in ("train", *missing):
            self.whole()
            documents, empty = self._read["train"]
            found = self._made(split, _divide(self.reference, documents, missing, held_out)[split], empty)
        else:
            found = self.whole(split)
        limit(self.reference, split, found)
        return found

    def _made(self, split: str, documents: list[Document], empty: list[str]) -> Documents:
        if not documents:
            raise self.reference.error(f"the {split} split has no text")
        return Documents(self.reference.text, documents, empty)


def source(reference: Reference, broken: str) -> TextSource:
    """The source of that name, see `opening.open_source`."""
    return TextSource(reference)


def _embedded(reference: Reference, split: str) -> list[Document]:
    kind, name = reference.kind, reference.name
    pairs = (assets.shakespeare if kind == "shakespeare" else assets.stdlib)(name, split)
    return [Document(title, f"{kind}:{name}, {title}", *_digests(text), text) for title, text in pairs]


def _documents(reference: Reference, names: list[str]) -> tuple[list[Document], list[str]]:
    """The files, each whole, and the names of those without text. They are read once; what is to be known of them is then
    in the cache. Raises UserError where there is no text, or where one looks like another kind."""
    looks.refuse_other_names(reference, names)
    digests = known_files.Known(names) if len(names) > 1 else None
    opened = [files.File.open(name, empty=True, known=digests) for name in names]
    if digests:
        digests.save()
    path = cache.root() / "texts" / f"{cache.digest('texts-6', *names)}.json"
    facts = known_files.read(path, {})
    new = {file.digest: file for file in opened if file.digest not in facts}
    if new:
        found = {digest: _read(file) for digest, file in new.items()}
        facts = {file.digest: facts.get(file.digest, found.get(file.digest)) for file in opened}
        known_files.write(path, facts)
    known = [facts[file.digest] for file in opened]
    for file, text in zip(opened, known):
        if text is not None and text[-1]:
            looks.refuse_json(reference, file.name)
    empty = [file.name for file, text in zip(opened, known) if text is None]
    if len(empty) == len(opened):
        raise UserError(f"empty files:{listed(empty)}")
    documents = [
        Document(file.name, file.name, bytes.fromhex(digest), bytes.fromhex(key), file=file, start=start, end=end)
        for file, (digest, key, start, end, _) in (
            (file, text) for file, text in zip(opened, known) if text is not None
        )
    ]
    return documents, empty


def _read(file: files.File) -> tuple[str, str, int, int, bool] | None:
    """Digest, key, start and end of a text, and whether its lines look like JSON; None if there is none in it."""
    end = file.path.stat().st_size
    blocks = files.blocks(file, 0, end)
    first = next(blocks, b"")
    looks.refuse_binary(first, file.name)
    start = 3 if first.startswith(b"\xef\xbb\xbf") else 0  # the mark that some editors begin UTF-8 files with
    digests, filled = values.TextDigests(end - start), False
    try:
        for text in files.decoded(itertools.chain([first[start:]], _checked(blocks, file.name))):
            digests.add(text)
            filled = filled or not text.isspace()
    except files.Undecodable as e:
        raise UserError(
            f"{file.name}: not UTF-8 text at byte {start + e.at} (line {e.line}); convert it first"
        ) from None
    digest, key = digests.found()
    if not filled:
        return None
    return digest.hex(), key.hex(), start, end, looks.is_json_lines(first, files.blocks(file, len(first), end))


def _checked(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The blocks of a file after the first. Raises UserError where one is no text."""
    for number, block in enumerate(blocks, 1):
        looks.refuse_zero(block, name, number * files.BLOCK)
        yield block


def _digests(text: str) -> tuple[bytes, bytes]:
    """Digest and key of the text alone: where a file lies is no part of what is learned."""
    return values.digest({"text": text}), values.texts_digest([text])


def _divide(
    reference: Reference, documents: list[Document], missing: list[str], share: float
) -> dict[str, list[Document]]:
    """By whole documents where there are enough, in the order of their keys; else by text."""
    if _few(documents, share):
        return _cut(reference, documents, missing, share)
    keys = np.frombuffer(b"".join(d.key for d in documents), np.uint64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # so that the names of files decide nothing
    documents, keys = [documents[i] for i in order], keys[order]
    chosen = divide(reference, keys, missing, share)
    return {name: [documents[i] for i in indices] for name, indices in chosen.items()}


def _few(documents: list[Document], share: float) -> bool:
    """Whether a share of the different documents rounds to none."""
    return not round(len({d.key for d in documents}) * share)


def _cut(
    reference: Reference, documents: list[Document], missing: list[str], share: float
) -> dict[str, list[Document]]:
    """The last lines of each document are held out. Cut at line ends, so that no line is on both sides."""
    splits: dict[str, list[Document]] = {"train": [], **{name: [] for name in missing}}
    for document in documents:
        lines = _Lines.of(document)
        if lines.count <= len(missing):  # too short to cut: trained on, unless it is all there is
            if len(documents) == 1:
                *first, last = ["train", *missing]
                raise reference.error(f"{lines.count} line(s) cannot be split into {', '.join(first)} and {last}")
            splits["train"].append(document)
            continue
        held = min(max(round(lines.count * share), 1), (lines.count - 1) // len(missing))
        starts = [lines.count - held * (len(missing) - n) for n in range(len(missing))]
        ends = [*(lines.start(line) for line in starts), document.end]
        for name, start, end in zip(splits, [document.start, *ends], ends):
            splits[name].append(_part(document, start, end))
    for name, pieces in splits.items():
        if all(block.isspace() for piece in pieces for block in piece.blocks()):
            raise reference.error(f"the {name} split has no text")
    return splits


def _part(document: Document, start: int, end: int) -> Document:
    """Bytes [start, end) of its file."""
    part = dataclasses.replace(document, start=start, end=end)
    digests = values.TextDigests(end - start)
    for block in part.blocks():
        digests.add(block)
    digest, key = digests.found()
    return dataclasses.replace(part, digest=digest, key=key)


class _Lines:
    """Where the lines of a document begin, which are `str.splitlines`', found some at a time."""

    def __init__(self, document: Document, starts: list[int], firsts: list[int], count: int):
        """For each block: the byte at which it starts and the number of its first line's end."""
        self._document, self._starts, self._firsts, self.count = document, starts, firsts, count

    @classmethod
    def of(cls, document: Document) -> _Lines:
        starts, firsts, at, ends, open_line = [], [], document.start, 0, False
        for block in _line_blocks(document.blocks()):
            starts.append(at)
            firsts.append(ends)
            lines = block.splitlines(keepends=True)
            open_line = not _ended(lines[-1])
            ends += len(lines) - open_line
            at += len(block.encode())
        return cls(document, starts, firsts, ends + open_line)

    def start(self, line: int) -> int:
        """The byte of the file at which a line begins, one after the first."""
        number = bisect.bisect_left(self._firsts, line) - 1  # the block that has the end of the line before
        begin = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self._document.end
        text = dataclasses.replace(self._document, start=begin, end=end).read()
        before = text.splitlines(keepends=True)[: line - self._firsts[number]]
        return begin + len("".join(before).encode())


def _line_blocks(blocks: Iterable[str]) -> Iterator[str]:
    """The same text, without a block that ends between the two characters of a line's end."""
    held = ""
    for block in blocks:
        text = held + block
        held = "\r" if text.endswith("\r") else ""
        if text := text[: len(text) - len(held)]:
            yield text
    if held:
        yield held


def _ended(line: str) -> bool:
    return len(f"{line[-1]}x".splitlines()) > 1
