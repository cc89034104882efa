"""What a worker does with a run of records: reads, tokenizes, filters and sketches them, and leaves one file."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import json
import pickle
import unicodedata
from typing import Any

import numpy as np

from ptft_jax.data import cache, formats, store
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.examples import Encoded
from ptft_jax.data.prepare import minhash, places, quality
from ptft_jax.data.prepare.overlap import Runs
from ptft_jax.data.prepare.settings import Settings
from ptft_jax.data.prepare.words import Words, words_of
from ptft_jax.data.tokenize import Opened
from ptft_jax.errors import UserError

# Why a record is lost, in the order in which it is looked for; the first one counts.
REASONS = (
    "min_characters",
    "max_characters",
    "min_tokens",
    "max_tokens",
    *(f"quality.{name}" for name in quality.RULES),
    "overlap",
)
KEPT, LISTED = -1, -2  # instead of a reason's number; LISTED is kept, and listed as an overlap
MOST = 20  # records that are listed for each reason
_AT_ONCE = 1 << 20  # characters whose words are looked at together


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every worker needs to know.

    Attributes:
      files, origin: of the tokenizer.
      runs: of evaluation texts.
      fingerprints: (reference, split) -> that of the records when the work began.
      chunk: records a task.
      made_by: versions of what decides on ids and words.
    """

    settings: Settings
    files: dict[str, bytes]
    origin: str
    runs: Runs | None
    fingerprints: dict[tuple[str, str], str]
    chunk: int = 0
    made_by: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return cache.digest(pickle.dumps(self))

    def path(self, folder: str) -> str:
        """The file of the plan in a folder: its name tells its content."""
        return f"{folder}/plan-{self.digest}"

    def parts(self, folder: str) -> str:
        """The folder for what tasks of this plan leave in a folder: another plan's are not taken for them."""
        return f"{folder}/{self.digest}"

    def save(self, folder: str) -> str:
        """Writes a file for the workers. Returns its path."""
        path = self.path(folder)
        places.write(path, pickle.dumps(self))
        return path


@dataclasses.dataclass(frozen=True)
class Task:
    """Records first .. last of a split of a source, and the file that is to hold what is known of them."""

    reference: str
    split: str
    first: int
    last: int
    path: str

    @property
    def error(self) -> str:
        """The file that holds the message instead, where a record cannot be prepared."""
        return f"{self.path}.error"


def work(plan: str, task: Task) -> None:
    """Does a task, unless that was done before. Bad input is left as a message: engines wrap exceptions in words of their own.

    Args:
      plan: the file of a `Plan`.
    """
    if places.exists(task.path):  # written whole or not at all
        return
    try:
        _Worker.of(plan).measured(task).save(task.path)
    except UserError as e:
        places.write(task.error, str(e).encode())


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What a worker found out of the records of a task.

    Attributes:
      columns: name -> array.
        Of examples: per_example int8, sequences of each; labels int32 (numbers: float64); characters, tokens int64; reasons int8, a number
        of `REASONS`, or KEPT, or LISTED; keys uint64 [n, 2], of `Records.keys`; digests uint64 [n, 2], equal for equal
        texts ([0, 2] without deduplication);
        bands uint64 [n, bands] and shingle_counts int64, see `duplicates.Sketches` ([0, 0] and [0] unless near).
        Of sequences: lengths int64, masked bool (has a mask), empties int64 (how many empty answers).
        Flat: ids uint16 | uint32; trained bool, of masked sequences; empty int64, places in the sequences; shingles uint32.
      details: (reason's number, index of the record in its split, what is wrong), the first `MOST` of each reason.
    """

    columns: dict[str, np.ndarray]
    details: list[tuple[int, int, str]]

    @classmethod
    def read(cls, task: Task) -> Chunk:
        """What a worker left. Raises UserError: what it left instead."""
        if not places.exists(task.path) and places.exists(task.error):  # of an earlier try, where there are both
            raise UserError(places.read(task.error).decode())
        columns = np.load(io.BytesIO(places.read(task.path)))
        return cls(columns, json.loads(columns["details"].tobytes()))

    def save(self, path: str) -> None:
        details = np.frombuffer(json.dumps(self.details).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **self.columns, details=details)
        places.write(path, buffer.getvalue())


class _Worker:
    """What a process keeps between tasks."""

    @classmethod
    @functools.lru_cache(maxsize=1)
    def of(cls, plan: str) -> _Worker:
        return cls(pickle.loads(places.read(plan)))

    def __init__(self, plan: Plan):
        self._plan, self._settings = plan, plan.settings
        self._tokenizer = tok.from_files(plan.files, plan.origin)
        self._dtype = store.ids_dtype(self._tokenizer.vocab_size)
        self._open: dict[tuple[str, str], tuple[Opened, Any]] = {}

    def _opened(self, reference: str, split: str) -> tuple[Opened, Any]:
        key, settings = (reference, split), self._settings
        found = self._open.get(key)
        if found is None:
            options = {"held_out": settings.held_out, "broken": settings.broken, "kinds": settings.kinds}
            opened = Opened.of(reference, split, **options)
            if opened.records.fingerprint != self._plan.fingerprints[key]:
                raise UserError(f"{reference}: its {split} split changed while it was prepared")
            encoder = formats.encoder(
                opened.format, self._tokenizer, template=settings.template, train_on=settings.train_on
            )
            found = self._open[key] = (opened, encoder)
        return found

    def measured(self, task: Task) -> Chunk:
        """What is to be known of a task's records. Raises UserError for one that cannot be encoded."""
        opened, encoder = self._opened(task.reference, task.split)
        parts: list[Chunk] = []
        records: list[dict] = []
        texts: list[list[str]] = []
        first, size = task.first, 0
        for index in range(task.first, task.last):
            records.append(opened.records[index])
            texts.append(encoder.texts(records[-1], opened.records.where(index)))
            size += sum(map(len, texts[-1]))
            if size >= _AT_ONCE or index + 1 == task.last:
                wheres = [opened.records.where(i) for i in range(first, index + 1)]
                part = self._part(encoder.encode(records, wheres), texts, task.split, first)
                parts.append(part)
                part.columns["keys"] = opened.records.keys(range(first, index + 1))
                records, texts, first, size = [], [], index + 1, 0
        return _joined(parts)

    def _part(self, examples: list[Encoded], texts: list[list[str]], split: str, first: int) -> Chunk:
        settings = self._settings
        columns = self._encoded(examples)
        columns["characters"] = np.asarray([sum(map(len, parts)) for parts in texts], np.int64)
        whole = ["\n\n".join(parts) for parts in texts]
        near = settings.near if settings.deduplicate == "near" else None
        words = words_of(whole) if settings.quality or near or self._plan.runs else None
        columns["reasons"], details = self._filtered(columns, whole, words, split)
        digests = [_digest(parts) for parts in texts] if settings.deduplicate != "none" else []
        columns["digests"] = np.asarray(digests, np.uint64).reshape(-1, 2)
        if near and words:
            shingles, offsets = minhash.shingles(words, near.words)
            rows = minhash.signatures(shingles, offsets, near.bands * near.rows, near.seed)
            columns["bands"] = minhash.bands(rows, np.diff(offsets) == 0, near)
            columns["shingles"], columns["shingle_counts"] = shingles, np.diff(offsets)
        return Chunk(columns, [(reason, i + first, detail) for reason, i, detail in details])

    def _encoded(self, examples: list[Encoded]) -> dict[str, np.ndarray]:
        sequences = [s for e in examples for s in e.sequences]
        per_example = np.asarray([len(e.sequences) for e in examples], np.int8)
        lengths = np.asarray([len(s.ids) for s in sequences], np.int64)
        starts = np.cumsum(per_example, dtype=np.int64) - per_example
        return {
            "ids": np.concatenate([s.ids for s in sequences]).astype(self._dtype),
            "lengths": lengths,
            "per_example": per_example,
            "masked": np.asarray([s.trained is not None for s in sequences], bool),
            "trained": np.concatenate([np.zeros(0, bool), *(s.trained for s in sequences if s.trained is not None)]),
            "empties": np.asarray([len(s.empty) for s in sequences], np.int64),
            "empty": np.asarray([at for s in sequences for at in s.empty], np.int64),
            "rights": np.asarray([len(s.right) for s in sequences], np.int64),
            "right": np.asarray([at for s in sequences for at in s.right], np.int64),
            "labels": np.asarray([e.label for e in examples], float if any(e.numeric for e in examples) else np.int32),
            "tokens": np.add.reduceat(lengths, starts),
            "longest": np.maximum.reduceat(lengths, starts),
        }

    def _filtered(
        self, columns: dict[str, np.ndarray], texts: list[str], words: Words | None, split: str
    ) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
        """int8 [examples], as `Chunk.columns["reasons"]`, and details by index in `texts`."""
        settings = self._settings
        reasons = np.full(len(texts), KEPT, np.int8)
        details: list[tuple[int, int, str]] = []

        def lose(reason: str, i: int, detail: str, listed: bool = False) -> None:
            if reasons[i] == KEPT:
                reasons[i] = LISTED if listed else REASONS.index(reason)
                details.append((int(reasons[i]), int(i), detail))

        for unit, sizes in (("characters", columns["characters"]), ("tokens", columns.pop("longest"))):
            least, most = getattr(settings, f"min_{unit}"), getattr(settings, f"max_{unit}")
            for i in np.flatnonzero(sizes < least):
                lose(f"min_{unit}", i, f"{sizes[i]} {unit}, fewer than {least}")
            for i in np.flatnonzero(sizes > most) if most else ():
                lose(f"max_{unit}", i, f"{sizes[i]} {unit}, more than {most}")
        if settings.quality and words:
            for i, broken in enumerate(quality.rejected(texts, words, settings.quality)):
                if broken:
                    name, value = broken
                    rule, sign = quality.RULES[name], "below" if quality.RULES[name].least else "above"
                    lose(f"quality.{name}", i, f"{rule.meaning}: {value:.4g}, {sign} {settings.quality[name]:g}")
        if self._plan.runs and words and split == "train":
            for i, place in enumerate(self._plan.runs.shared(words)):
                if place >= 0:
                    detail = f"a run of words from word {place - words.offsets[i] + 1} on is in an evaluation text"
                    lose("overlap", i, detail, settings.overlap == "list")
        return reasons, details


def _digest(parts: list[str]) -> tuple[int, int]:
    """128 bits that are equal for texts that are equal up to Unicode's normal form C and how much white space is where."""
    sha = hashlib.sha256()
    for part in parts:
        data = " ".join(unicodedata.normalize("NFC", part).split()).encode("utf-8", "surrogatepass")
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    value = sha.digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:16], "little")


def _joined(parts: list[Chunk]) -> Chunk:
    columns = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
    details, counts = [], collections.Counter()
    for detail in sorted((d for p in parts for d in p.details), key=lambda d: d[1]):
        counts[detail[0]] += 1
        if counts[detail[0]] <= MOST:
            details.append(detail)
    return Chunk(columns, details)
