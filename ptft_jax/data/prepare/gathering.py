"""What the process that started the workers keeps of their chunks, and the shards that it writes from them."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptft_jax.data import store_writer
from ptft_jax.data.examples import Encoded
from ptft_jax.data.prepare import duplicates
from ptft_jax.data.prepare.chunks import KEPT, LISTED, MOST, REASONS, Chunk, Task
from ptft_jax.data.prepare.settings import Settings

ALL_REASONS = (*REASONS, *duplicates.REASONS)


class Gathered:
    """All records of all splits, in order: those of the train split first, each split's by source and index.

    In memory are some 40 bytes a record; what near-duplicates are found by lies in files.

    Attributes (after `finish`):
      reasons: int8 [records], as in `chunks.Chunk`; a number of `ALL_REASONS`, KEPT or LISTED.
      characters, tokens: int64 [records].
      details: record -> what is wrong with it, for some of each source and reason.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings):
        self._folder, self._settings = folder, settings
        self._near = settings.near if settings.deduplicate == "near" else None
        self._parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        # A file for each band, as they are read one after the other.
        names = (*map(_band, range(self._near.bands)), "shingles") if self._near else ()
        self._files = {name: (folder / name).open("wb") for name in names}
        self._count = 0
        self.details: dict[int, str] = {}
        self._listed: collections.Counter[tuple[str, str, int]] = collections.Counter()

    def add(self, task: Task, chunk: Chunk) -> None:
        """Takes note of the next chunk, which belongs to records that follow the last one's."""
        columns = chunk.columns
        for name in ("reasons", "characters", "tokens", "digests"):
            self._parts[name].append(columns[name])
        if self._near:
            self._parts["shingle_counts"].append(columns["shingle_counts"])
            for name, values in (
                *((_band(n), v) for n, v in enumerate(columns["bands"].T)),
                ("shingles", columns["shingles"]),
            ):
                values.tofile(self._files[name])
        for reason, index, detail in chunk.details:
            key = (task.reference, task.split, reason)
            self._listed[key] += 1
            if self._listed[key] <= MOST:
                self.details[self._count + index - task.first] = detail
        self._count += len(self._parts["reasons"][-1])

    def finish(self, train: int) -> dict[str, Any]:
        """Judges repeats, of which the first `train` records are the train split's. Returns figures for the manifest."""
        for file in self._files.values():
            file.close()
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self.reasons, self.characters, self.tokens = (joined[name] for name in ("reasons", "characters", "tokens"))
        self.like = np.arange(self._count)
        if self._settings.deduplicate == "none":
            return {}
        self._sketches = None
        if self._near:
            offsets = np.concatenate([[0], np.cumsum(joined["shingle_counts"], dtype=np.int64)])
            self._sketches = duplicates.Sketches(
                [self._mapped(_band(n), np.uint64) for n in range(self._near.bands)],
                self._mapped("shingles", np.uint32),
                offsets,
            )
        verdict = duplicates.judge(
            joined["digests"], self._sketches, self.reasons < 0, train, self._settings.near.threshold
        )
        self.like = verdict.like
        for name, records in verdict.reasons.items():
            self.reasons[records] = ALL_REASONS.index(name)
        if not self._near:
            return {}
        at_threshold = self._near.found(self._near.threshold)
        return {"pairs_compared": verdict.looked, "pairs_found_at_threshold": round(at_threshold, 6)}

    def likeness(self, record: int) -> str:
        """How a lost record repeats the one that it is like."""
        if self._sketches is None or ALL_REASONS[self.reasons[record]] == "duplicate":
            return "equal to"
        value = self._sketches.similarity(record, int(self.like[record]))
        connected = "" if value >= self._settings.near.threshold else ", connected by others in between"
        return f"similar ({value:.2f}{connected}) to"

    def _mapped(self, name: str, dtype: Any) -> np.ndarray:
        path = self._folder / name
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _band(n: int) -> str:
    return f"band-{n}"


def examples(chunk: Chunk, which: np.ndarray) -> list[Encoded]:
    """The examples `which` (bool [n]) of a chunk."""
    columns = {name: chunk.columns[name] for name in ("ids", "lengths", "per_example", "masked", "trained", "labels")}
    columns |= {
        name: chunk.columns.get(name, 0 * columns["lengths"]) for name in ("empties", "empty", "rights", "right")
    }
    ends = np.cumsum(columns["lengths"])
    empty_ends, right_ends = np.cumsum(columns["empties"]), np.cumsum(columns["rights"])
    mask_ends = np.cumsum(columns["lengths"] * columns["masked"])
    starts = np.cumsum(columns["per_example"], dtype=np.int64) - columns["per_example"]

    def sequence(s: int, label: int | float = -1, rejected: Encoded | None = None) -> Encoded:
        length = columns["lengths"][s]
        trained = columns["trained"][mask_ends[s] - length : mask_ends[s]] if columns["masked"][s] else None
        empty = columns["empty"][empty_ends[s] - columns["empties"][s] : empty_ends[s]].tolist()
        right = columns["right"][right_ends[s] - columns["rights"][s] : right_ends[s]].tolist()
        return Encoded(columns["ids"][ends[s] - length : ends[s]], trained, label, rejected, tuple(empty), tuple(right))

    out = []
    for i in np.flatnonzero(which):
        s = starts[i]
        rejected = sequence(s + 1) if columns["per_example"][i] == 2 else None
        out.append(sequence(s, columns["labels"][i].item(), rejected))
    return out


def shard_names(kept: int, shards: int) -> list[str]:
    """The shards of so many examples: no more than there are examples."""
    count = min(shards, kept)
    return [f"shard-{n:05d}-of-{count:05d}" for n in range(count)]


def write_shards(
    folder: pathlib.Path,
    kept: np.ndarray,
    chunks: Iterator[Chunk],
    *,
    shards: int,
    vocab_size: int,
    **facts: Any,
) -> list[dict[str, Any]]:
    """Writes the kept examples of a split in order, in shards of as equal a number of examples as can be.

    Args:
      kept: bool [records of the split].
      chunks: the split's, in order.
      facts: noted in each shard.

    Returns:
      name, examples, tokens, empty answers (where there are some) and digest of each shard.
    """
    names = shard_names(int(np.count_nonzero(kept)), shards)
    total = int(np.count_nonzero(kept))
    ends = [total * (n + 1) // len(names) for n in range(len(names))]
    out: list[dict[str, Any]] = []
    writer, written, at = None, 0, 0
    for chunk in chunks:
        count = len(chunk.columns["reasons"])
        which = kept[at : at + count]
        origins = np.flatnonzero(which) + at
        found, keys = examples(chunk, which), chunk.columns["keys"][which]
        at += count
        while len(found):
            writer = writer or store_writer.Writer(folder / names[len(out)], vocab_size, keyed=True, masked=True)
            room = ends[len(out)] - written
            writer.add(found[:room], origins[:room], keys[:room])
            written += min(room, len(found))
            found, origins, keys = found[room:], origins[room:], keys[room:]
            if written == ends[len(out)]:
                out.append(_closed(writer, names[len(out)], facts))
                writer = None
    assert written == total and len(out) == len(names), (written, total)
    return out


def _closed(writer: store_writer.Writer, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Finishes a shard, whose key is the digest of its files."""
    key = writer.close(None, **facts)
    empty = {"empty_answers": writer.empty} if writer.empty else {}
    return {"name": name, "examples": writer.examples, "tokens": writer.tokens, **empty, "digest": key}


def is_kept(reasons: np.ndarray) -> np.ndarray:
    """bool [records]."""
    return (reasons == KEPT) | (reasons == LISTED)
