"""A split of a source to a store of token ids: cached, and by several processes where there is much to do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.config.sources import SOURCES, SourceSpec
from ptft_jax.data import cache, formats, processes, records, store, store_writer
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.formats import labels
from ptft_jax.data.records.table import limit
from ptft_jax.data.store import Store
from ptft_jax.data.unfinished import Unfinished
from ptft_jax.errors import UserError

Kinds = Mapping[str, SourceSpec]
FORM = "store-2"  # to be changed with whatever changes what is stored
CHUNK = 256  # records tokenized at a time, at most
CHARACTERS = 1 << 20  # of their texts after which no more are taken, and of a text that is tokenized in parts
KEPT = 1 << 25  # bytes of a text above which what is done of it is kept until all is
ALONE_FIRST = 3.0  # seconds of work after which the rest is estimated
WORTH_IT = (
    10.0  # seconds that the rest must take for parts to be kept until all is done, and for more processes to be started
)
PARTS = 64  # of a split, at most


@dataclasses.dataclass(frozen=True)
class Opened:
    """A split of a source, and how its records are read as examples."""

    reference: str
    split: str
    held_out: float
    broken: str
    records: records.Records
    format: formats.Format

    @classmethod
    def of(
        cls,
        reference: str,
        split: str,
        *,
        held_out: float,
        broken: str = "raise",
        kinds: Kinds = SOURCES,
        learns: Sequence[str] = (),
    ) -> Opened:
        """The format is that of all that is trained on or divided, whichever split is opened: a class has the same number in
        all.

        `kinds` as of `records.parse`, `learns` as of `formats.choose`. Raises UserError: see `records.open_records` and `formats.choose`.
        """
        return Formatted.of(reference, broken, kinds, learns=learns).opened(split, held_out)

    def texts(self) -> Iterator[Any]:
        """All text of the records, for training a tokenizer: what is said, without what a template puts around it. A long text
        of a file is not read whole: it has `blocks`."""
        encoder = self._texts_encoder()
        for index in range(len(self.records)):
            if long := long_text(self, index):
                yield long
            else:
                yield from encoder.said(self.records[index], self.records.where(index))

    def identity_of_texts(self) -> tuple[str, ...]:
        """Equal where `texts` are."""
        return (FORM, self.records.fingerprint, *self._texts_encoder().identity)

    def _texts_encoder(self) -> formats.Encoder:
        return formats.encoder(self.format, tok.ByteTokenizer(), template="chatml")


@dataclasses.dataclass(frozen=True)
class Formatted:
    """A source, and how the records of all its splits are read as examples."""

    reference: str
    broken: str
    source: records.Source
    format: formats.Format

    @classmethod
    def of(
        cls,
        reference: str,
        broken: str = "raise",
        kinds: Kinds = SOURCES,
        trains: bool = True,
        learns: Sequence[str] = (),
    ) -> Formatted:
        """As `Opened.of`; `trains` as for `records.open_source`."""
        source = records.open_source(reference, broken=broken, kinds=kinds, trains=trains)
        first = "train" if "train" in source.own else source.own[0]
        whole, options = source.whole(first), source.reference.options
        pool = labels.Pool(lambda: [(whole, whole.where)], source.reference.kind == "csv", whole.class_names)
        held_out = (source.whole(split) for split in source.own if split != first)  # opened where they are asked for
        elsewhere = ((rows.where(index), rows[index]) for rows in held_out for index in range(len(rows)))
        chosen = formats.choose(_beginnings(whole), options, whole.where, pool=pool, elsewhere=elsewhere, learns=learns)
        reading = formats.Reading.of_columns(chosen.name, chosen.columns, options, chosen.json)
        return cls(reference, broken, source.read_as(reading), chosen)

    def opened(self, split: str, held_out: float) -> Opened:
        """A split. Raises UserError."""
        rows, chosen = self.source.split(split, held_out), self.format
        if split != "train" and split in self.source.own:
            chosen = formats.choose(_beginnings(rows), self.source.reference.options, rows.where, like=chosen)
        return Opened(self.reference, split, held_out, self.broken, rows, chosen)

    def whole(self, split: str) -> Opened:
        """A split of the source's own, with nothing held out of it. Raises UserError."""
        rows, chosen = self.source.whole(split), self.format
        limit(self.source.reference, split, rows)
        if split != "train":
            chosen = formats.choose(_beginnings(rows), self.source.reference.options, rows.where, like=chosen)
        return Opened(self.reference, split, 0.0, self.broken, rows, chosen)


def _beginnings(rows: records.Records) -> Any:
    """The records by which a format is told, without what long texts go on with, where their source can leave that out."""
    return rows.beginnings() if hasattr(rows, "beginnings") else rows


def long_text(opened: Opened, index: int) -> Any:
    """A record that is a long text alone, and that its source reads some at a time (`blocks`); else None."""
    find = getattr(opened.records, "long", None)
    return find(index) if find and opened.format.name == "text" else None


def tokenized(
    opened: Opened,
    tokenizer: tok.Tokenizer,
    *,
    template: str,
    train_on: str,
    workers: int = 0,
    pixels: formats.Pixels | None = None,
) -> Store:
    """The split as token ids, or what an earlier run made of the same records with the same settings.

    Args:
      workers: processes; 0 = as many as there are processors, where the work is worth it. The result is the same.
      pixels: of images, what each is made to be.

    Raises:
      UserError: a record that cannot be encoded, named by its place.
    """
    encoder = formats.encoder(opened.format, tokenizer, template=template, train_on=train_on, pixels=pixels)
    parts = (FORM, opened.records.fingerprint, tok.fingerprint(tokenizer), *encoder.identity)
    key = cache.digest(*parts)

    def fill(folder: pathlib.Path) -> None:
        writer = store_writer.Writer(folder, tokenizer.vocab_size, values=encoder.values)
        unfinished = Unfinished(key, of)
        try:
            done = 0
            if workers <= 1 and not unfinished.begun():
                done = _encode(opened, encoder, writer, range(len(opened.records)), unfinished, patient=False)
            if done < len(opened.records):
                _encode_in_parts(opened, encoder, writer, done, workers or os.cpu_count() or 1, unfinished)
        except BaseException as e:
            writer.discard()
            # Where a record is wrong, what will be tokenized in its place is something else.
            if isinstance(e, UserError) and not isinstance(e, processes.Ended):
                unfinished.end()
            raise
        writer.close(key, format=opened.format.describe(), source=opened.reference, split=opened.split)

    of = f"{opened.reference} ({opened.split})"
    made = store.cached(key, fill, of)
    Unfinished(key).end()
    return made


def _encode(
    opened: Opened,
    encoder: Any,
    writer: store_writer.Writer,
    which: range,
    unfinished: Unfinished,
    patient: bool = True,
) -> int:
    """Encodes the records `which`; where not `patient`, stops early if the rest would take long. Returns where it ended."""
    began = time.monotonic()
    for chunk in _chunks(opened, encoder, which, unfinished):
        if isinstance(chunk.rows, list):
            wheres = [opened.records.where(i) for i in chunk.which]
            writer.add(encoder.encode(chunk.rows, wheres), chunk.which)
        else:
            writer.add_long(chunk.rows, chunk.which.start)
        stop = chunk.which.stop
        seconds = time.monotonic() - began
        rest = seconds * (which.stop - stop) / (stop - which.start)
        if not patient and seconds > ALONE_FIRST and rest > WORTH_IT:
            return stop
    return which.stop


class _Chunk(NamedTuple):
    """Records that are encoded at a time: themselves, or the ids of a single one, array by array."""

    which: range
    rows: list[Any] | Iterator[np.ndarray]


def _chunks(opened: Opened, encoder: Any, which: range, unfinished: Unfinished) -> Iterator[_Chunk]:
    """The records `which`, so that what is held at a time does not grow with their number or the length of texts."""
    rows: list[Any] = []
    first, size = which.start, 0
    for index in which:
        long = None
        if found := long_text(opened, index):
            make = functools.partial(encoder.encode_blocks, found.blocks())
            long = unfinished.text(index, make) if found.size > KEPT else make()
        else:
            row = opened.records[index]
            length = _characters(row)
            if length > CHARACTERS and opened.format.name == "text":
                long = encoder.encode_long(row, opened.records.where(index))
        if long is None:
            rows.append(row)
            size += length
        if rows and (long is not None or len(rows) == CHUNK or size >= CHARACTERS or index + 1 == which.stop):
            yield _Chunk(range(first, first + len(rows)), rows)
            first, rows, size = first + len(rows), [], 0
        if long is not None:
            yield _Chunk(range(index, index + 1), long)
            first = index + 1


def _characters(value: Any) -> int:
    """Of all texts, or bytes of images, in values; other values count as one."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 1


def _encode_in_parts(
    opened: Opened, encoder: Any, writer: store_writer.Writer, first: int, count: int, unfinished: Unfinished
) -> None:
    """Encodes the records from `first` on by `count` processes, in parts that are kept if this one is killed. Where they end does not
    depend on `first` nor `count`, so that the next process has a use for them."""
    last = len(opened.records)
    size = max(CHUNK, -(-last // PARTS))
    starts = [first, *range((first // size + 1) * size, last, size)]
    ranges = [range(a, b) for a, b in zip(starts, [*starts[1:], last])]
    unfinished.begin()
    missing = [part for part in ranges if not unfinished.has(part)]
    job = pickle.dumps((opened, encoder, writer.vocab_size, unfinished))
    work = (itertools.repeat(job), missing)
    count = min(count, len(missing))
    done = map(_work, *work) if count <= 1 else processes.mapped(_work, *work, count=count, setting="data.workers")
    with contextlib.closing(done) if count > 1 else contextlib.nullcontext():
        for part in ranges:
            if part in missing:
                next(done)
            writer.take(unfinished.part(part))


def _work(job: bytes, which: range) -> None:
    opened, encoder, vocab_size, unfinished = _unpacked(job)

    def fill(folder: pathlib.Path) -> None:
        writer = store_writer.Writer(folder, vocab_size, values=encoder.values)
        try:
            _encode(opened, encoder, writer, which, unfinished)
        except BaseException:
            writer.discard()
            raise
        writer.close()

    unfinished.add(which, fill)


@functools.lru_cache(maxsize=1)
def _unpacked(job: bytes) -> tuple[Opened, Any, int, Unfinished]:
    """A worker's only job; a source that has changed since is refused here, and a tokenizer takes long to make."""
    return pickle.loads(job)
