"""The passages of an index: written once, in their order, and read one by one from a file that is never held whole."""

from __future__ import annotations

import hashlib
import json
import mmap
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import formats, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError

TEXTS, STARTS = "passages.jsonl", "passages.npy"
_WORD = re.compile(r"\S+\s*")


class Passage(NamedTuple):
    """A passage.

    Attributes:
      id: the `id` of its record, or the record's number in the corpus; of a part of a document with "#" and the number of the part.
      where: its place in the corpus, as a person would look it up.
    """

    id: str
    where: str
    text: str


class Corpus:
    """What an index is made of: all that a source holds, or one of its splits.

    Attributes:
      fingerprints: of the records of each split.
      sources: the opened source, by its reference.
    """

    def __init__(self, reference: str, split: str, words: int, kinds: Any, broken: str = "raise"):
        """`words`: documents are cut into passages of so many; 0 = a record is a passage. Raises UserError."""
        found = tokenize.Formatted.of(reference, broken, kinds, trains=False)
        if found.format.kind != "text":
            raise found.source.reference.error(
                f"an index is made of texts, and this is {found.format.describe()}; text=COLUMN says where they are"
            )
        own = found.source.own
        if split and split not in own:
            raise found.source.reference.error(f"it has no {split}: it has {' and '.join(own)}")
        self.reference, self._words, self._format = reference, words, found.format
        self._parts = {name: found.whole(name).records for name in own if split in ("", name)}
        self._id = found.source.reference.id_column
        self.fingerprints = {name: part.fingerprint for name, part in self._parts.items()}
        self.sources = {reference: found.source}

    def __iter__(self) -> Iterator[Passage]:
        """All passages. Raises UserError for an empty one, and an id that comes twice."""
        encoder, seen, number = formats.encoder(self._format, tok.ByteTokenizer()), dict[str, str](), 0
        column = self._format.columns["text"]
        for part in self._parts.values():
            for n in range(len(part)):
                record, where = part[n], part.where(n)
                text = "".join(encoder.texts(record, where))
                if not text.strip():
                    raise UserError(f"{where}: field {column!r}: an empty passage: nothing could be found in it")
                given = record.get(self._id) if self._id else None
                identity = str(number if given is None else given)
                if identity in seen:
                    raise UserError(
                        f"{where}: field {self._id or 'id'!r}: {identity!r} is that of {seen[identity]} too"
                    )
                seen[identity] = where
                number += 1
                yield from self._cut(Passage(identity, where, text))

    def _cut(self, whole: Passage) -> Iterator[Passage]:
        words = _WORD.findall(whole.text) if self._words else []
        if len(words) <= self._words:
            yield whole
            return
        for n, first in enumerate(range(0, len(words), self._words)):
            text = "".join(words[first : first + self._words]).strip()
            yield Passage(f"{whole.id}#{n}", f"{whole.where}, part {n}", text)


def write(folder: pathlib.Path, passages: Iterator[Passage]) -> tuple[int, str]:
    """Writes passages. Returns how many there are, and a digest of their ids and texts."""
    sha, starts = hashlib.sha256(b"passages-1"), [0]
    with (folder / TEXTS).open("wb") as f:
        for one in passages:
            line = json.dumps(one._asdict(), ensure_ascii=False).encode() + b"\n"
            f.write(line)
            starts.append(starts[-1] + len(line))
            sha.update(json.dumps([one.id, one.text]).encode())
    np.save(folder / STARTS, np.asarray(starts, np.int64))
    return len(starts) - 1, sha.hexdigest()[:32]


class Written(Sequence[Passage]):
    """The passages in a folder."""

    def __init__(self, folder: pathlib.Path):
        self._starts = np.load(folder / STARTS, mmap_mode="r")
        with (folder / TEXTS).open("rb") as f:
            self._bytes = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self._numbers: dict[str, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(f"passage {number} of {len(self)}")
        return Passage(**json.loads(self._bytes[int(self._starts[number]) : int(self._starts[number + 1])]))

    def numbers(self, identity: str) -> tuple[int, ...]:
        """The numbers of the passages with an id: one, all parts of a document, or none."""
        if self._numbers is None:
            self._numbers = {}
            for n, one in enumerate(self):
                whole, part, _ = one.id.rpartition("#")
                for name in (one.id, *([whole] if part else [])):
                    self._numbers[name] = (*self._numbers.get(name, ()), n)
        return self._numbers.get(identity, ())
