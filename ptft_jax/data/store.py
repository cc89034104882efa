"""Tokenised examples on disk: memory-mapped, keyed by content, built in parallel, complete or not there at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.examples import Encoded
from ptft_jax.errors import UserError

META = "meta.json"
_ABANDONED = 7 * 24 * 3600  # seconds after which a folder that is being filled is taken for one that was left
_SPANS = 10_000  # whose ids are looked at together
_SPANS = 1 << 16  # looked at together
# What a store has besides `ids`: file name -> dtype.
_COLUMNS = {"lengths": np.int64, "trained": np.bool_, "labels": np.int32, "origins": np.int64}


@dataclasses.dataclass(frozen=True)
class Store:
    """Token ids of many examples, one after the other. An example is one sequence; a preference pair is two, the better
    answer first.

    Attributes:
      ids: uint16 or uint32 [N], memory-mapped.
      offsets: int64 [sequences + 1], where sequences start and the last ends.
      trained: bool [N], the ids that are targets of the loss; None = all.
      labels: int32 [examples] of classification, else None.
      origins: int64 [examples], which record of the source each was made from.
      key: digest that names the content in checkpoints and lineage.
      per_example: sequences of an example, 1 or 2.
    """

    ids: np.ndarray
    offsets: np.ndarray
    trained: np.ndarray | None
    labels: np.ndarray | None
    origins: np.ndarray
    key: str
    per_example: int = 1

    def __len__(self) -> int:
        """How many examples."""
        return len(self.origins)

    def first(self, tokens: int, *, cut: bool) -> Store:
        """The first examples that have at most so many tokens.

        Args:
          cut: have exactly so many: the last example is cut, as text may be.

        Raises:
          UserError: there are fewer tokens, or the first example alone has more.
        """
        field = f"config.data.train_tokens = {tokens}"
        if tokens > len(self.ids):
            raise UserError(f"{field}: the training split has only {len(self.ids)} tokens")
        ends = self.offsets[self.per_example :: self.per_example]
        if cut:
            examples = int(np.searchsorted(ends, tokens)) + 1
            offsets = np.minimum(self.offsets[: examples * self.per_example + 1], tokens)
        else:
            examples = int(np.searchsorted(ends, tokens, side="right"))
            offsets = self.offsets[: examples * self.per_example + 1]
        if not examples:
            raise UserError(f"{field}: the first example alone has {ends[0]} tokens")
        tokens = int(offsets[-1])
        return Store(
            self.ids[:tokens],
            offsets,
            None if self.trained is None else self.trained[:tokens],
            None if self.labels is None else self.labels[:examples],
            self.origins[:examples],
            cache.digest(self.key, str(tokens)),
            self.per_example,
        )

    def learned(self, spans: np.ndarray, first: bool = True) -> np.ndarray:
        """int64 [n]: how many ids of each span (start, stop; int64 [n, 2]) are targets.

        Args:
          first: count those that a span starts with; they are no targets where an id is predicted from those before it.
        """
        starts, stops = spans[:, 0] + (not first), spans[:, 1]
        if self.trained is None:
            return np.maximum(stops - starts, 0)
        counts = np.zeros(len(spans), np.int64)
        for at in range(0, len(spans), _SPANS):  # in parts: sums take eight times the memory of what is summed
            part = slice(at, at + _SPANS)
            first = int(starts[part].min())
            total = np.concatenate([[0], np.cumsum(self.trained[first : int(stops[part].max())], dtype=np.int64)])
            some = stops[part] > starts[part]
            counts[part][some] = total[stops[part][some] - first] - total[starts[part][some] - first]
        return counts


def ids_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The narrowest type that holds the ids of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class Writer:
    """Fills a folder with examples, in the order given. Nothing is kept in memory."""

    def __init__(self, folder: pathlib.Path, vocab_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vocab_size = folder, vocab_size
        self._dtype = ids_dtype(vocab_size)
        self._files = {  # open until close()
            name: (folder / f"{name}.bin").open("wb") for name in ("ids", *_COLUMNS)
        }
        self.examples = self.sequences = self.tokens = 0
        self._all_trained, self._labelled, self._pairs = True, False, False

    def add(self, examples: Sequence[Encoded], origins: Iterable[int]) -> None:
        """Appends examples made from the records `origins`."""
        sequences = [s for e in examples for s in e.sequences]
        self._pairs |= len(sequences) > len(examples)
        self._all_trained &= all(s.trained is None for s in sequences)
        self._labelled |= any(e.label >= 0 for e in examples)
        values = {
            "ids": _joined([s.ids for s in sequences], self._dtype),
            "lengths": np.asarray([len(s.ids) for s in sequences], np.int64),
            "trained": _joined(
                [np.ones(len(s.ids), bool) if s.trained is None else s.trained for s in sequences], np.bool_
            ),
            "labels": np.asarray([e.label for e in examples], np.int32),
            "origins": np.asarray(list(origins), np.int64),
        }
        for name, array in values.items():
            self._files[name].write(memoryview(np.ascontiguousarray(array)).cast("B"))
        self.examples += len(examples)
        self.sequences += len(sequences)
        self.tokens += len(values["ids"])

    def take(self, part: pathlib.Path) -> None:
        """Appends what another writer has closed."""
        meta = json.loads((part / META).read_bytes())
        for name, file in self._files.items():
            with open(part / f"{name}.bin", "rb") as source:
                shutil.copyfileobj(source, file, 1 << 22)
        for count in ("examples", "sequences", "tokens"):
            setattr(self, count, getattr(self, count) + meta[count])
        self._all_trained &= meta["all_trained"]
        self._labelled |= meta["labelled"]
        self._pairs |= meta["per_example"] == 2

    def close(self, key: str = "", **facts: Any) -> None:
        """Finishes the folder; `facts` are kept with it (see `facts`)."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        meta = {
            "key": key,
            "dtype": np.dtype(self._dtype).name,
            "examples": self.examples,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "per_example": 2 if self._pairs else 1,
            "all_trained": self._all_trained,
            "labelled": self._labelled,
            **facts,
        }
        text = json.dumps(meta, indent=1, ensure_ascii=False)
        cache.write_atomic(self.folder / META, lambda temporary: temporary.write_text(text))

    def discard(self) -> None:
        for file in self._files.values():
            file.close()


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def facts(folder: pathlib.Path) -> dict[str, Any]:
    """What `Writer.close` noted of a store. Raises UserError where there is none."""
    path = pathlib.Path(folder) / META
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: no tokenised data here (no {META})") from None
    except ValueError as e:
        raise UserError(f"{path}: not JSON: {e}") from e


def load(folder: pathlib.Path) -> Store:
    """Maps a finished store. Raises UserError where files are missing or too short."""
    folder = pathlib.Path(folder)
    meta = facts(folder)

    def array(name: str, dtype: Any, count: int) -> np.ndarray:
        path = folder / f"{name}.bin"
        expected, have = count * np.dtype(dtype).itemsize, path.stat().st_size if path.is_file() else -1
        if have != expected:
            raise UserError(f"{path}: {have} bytes, expected {expected}: damaged; delete {folder} to have it made anew")
        # As a plain array: slicing a memmap object costs microseconds more.
        return np.asarray(np.memmap(path, dtype, "r")) if count else np.zeros(0, dtype)

    tokens, sequences, examples = meta["tokens"], meta["sequences"], meta["examples"]
    lengths = array("lengths", np.int64, sequences)
    return Store(
        ids=array("ids", np.dtype(meta["dtype"]), tokens),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        trained=None if meta["all_trained"] else array("trained", np.bool_, tokens),
        labels=array("labels", np.int32, examples) if meta["labelled"] else None,
        origins=array("origins", np.int64, examples),
        key=meta["key"],
        per_example=meta["per_example"],
    )


@contextlib.contextmanager
def folder_at_once(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes `target` at the end, or is deleted if anything fails. Where another process was
    faster, its folder stays: what is made twice is equal."""
    with cache.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            try:
                temporary.rename(target)
            except OSError:
                if not (target / META).is_file():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def cached(key: str, fill: Callable[[pathlib.Path], None]) -> Store:
    """The store named `key` in the cache; `fill` makes it in a folder that it is given, if it is not there yet."""
    target = cache.root() / "stores" / key
    if not (target / META).is_file():
        with folder_at_once(target) as folder:
            fill(folder)
    return load(target)
