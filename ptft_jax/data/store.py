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
_SPANS = 1 << 23  # ids of spans that are looked at together
# What a store has besides `ids`: file name -> dtype.
_COLUMNS = {"lengths": np.int64, "trained": np.bool_, "labels": np.int32, "origins": np.int64, "empty": np.int64}


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
      empty: int64 [n], where in `ids` answers begin that are learned and have nothing in them.
    """

    ids: np.ndarray
    offsets: np.ndarray
    trained: np.ndarray | None
    labels: np.ndarray | None
    origins: np.ndarray
    key: str
    per_example: int = 1
    empty: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

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
            self.empty[self.empty < tokens],
        )

    def learned(self, spans: np.ndarray, first: bool = True) -> np.ndarray:
        """int64 [n]: how many ids of each span (start, stop; int64 [n, 2]) are targets.

        Args:
          first: count those that a span starts with; they are no targets where an id is predicted from those before it.
        """
        return self.counted(spans, lambda ids, trained: trained, first)

    def counted(
        self, spans: np.ndarray, able: Callable[[np.ndarray, np.ndarray | None], np.ndarray | None], first: bool = True
    ) -> np.ndarray:
        """int64 [n]: how many ids of each span are `able` (of ids and whether they are trained, bool [ids]; None = all are).

        Args:
          spans: int64 [n, 2], start and stop.
          first: as for `learned`.
        """
        order = np.argsort(spans[:, 0], kind="stable")
        starts, stops = spans[order, 0] + (not first), spans[order, 1]
        counts = np.maximum(stops - starts, 0)
        at = 0
        while at < len(spans):  # in parts: sums take eight times the memory of what is summed
            begin = int(starts[at])
            part = slice(at, max(at + 1, int(np.searchsorted(starts, begin + _SPANS))))
            at, end = part.stop, int(stops[part].max())
            trained = None if self.trained is None else self.trained[begin:end]
            among = able(self.ids[begin:end], trained)
            if among is None:
                continue
            total = np.concatenate([[0], np.cumsum(among, dtype=np.int64)])
            some = counts[part] > 0
            counts[part][some] = total[stops[part][some] - begin] - total[starts[part][some] - begin]
        found = np.empty_like(counts)
        found[order] = counts
        return found


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
        self.examples = self.sequences = self.tokens = self.empty = 0
        self._all_trained, self._labelled, self._pairs = True, False, False

    def add(self, examples: Sequence[Encoded], origins: Iterable[int]) -> None:
        """Appends examples made from the records `origins`."""
        sequences = [s for e in examples for s in e.sequences]
        self._pairs |= len(sequences) > len(examples)
        self._all_trained &= all(s.trained is None for s in sequences)
        self._labelled |= any(e.label >= 0 for e in examples)
        starts = self.tokens + np.cumsum([0, *(len(s.ids) for s in sequences)])
        values = {
            "ids": _joined([s.ids for s in sequences], self._dtype),
            "lengths": np.asarray([len(s.ids) for s in sequences], np.int64),
            "trained": _joined(
                [np.ones(len(s.ids), bool) if s.trained is None else s.trained for s in sequences], np.bool_
            ),
            "labels": np.asarray([e.label for e in examples], np.int32),
            "origins": np.asarray(list(origins), np.int64),
            "empty": np.asarray([start + at for start, s in zip(starts, sequences) for at in s.empty], np.int64),
        }
        for name, array in values.items():
            self._files[name].write(memoryview(np.ascontiguousarray(array)).cast("B"))
        self.examples += len(examples)
        self.sequences += len(sequences)
        self.tokens += len(values["ids"])
        self.empty += len(values["empty"])

    def take(self, part: pathlib.Path) -> None:
        """Appends what another writer has closed."""
        meta = json.loads((part / META).read_bytes())
        for name, file in self._files.items():
            if name != "empty":
                with open(part / f"{name}.bin", "rb") as source:
                    shutil.copyfileobj(source, file, 1 << 22)
        if meta.get("empty"):
            (np.fromfile(part / "empty.bin", np.int64) + self.tokens).tofile(self._files["empty"])
        for count in ("examples", "sequences", "tokens", "empty"):
            setattr(self, count, getattr(self, count) + meta.get(count, 0))
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
            "empty": self.empty,
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
        empty=array("empty", np.int64, meta["empty"]) if meta.get("empty") else np.zeros(0, np.int64),
    )


@contextlib.contextmanager
def folder_at_once(target: pathlib.Path, old: Callable[[], bool] = lambda: False) -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes `target` at the end, or is deleted if anything fails. Where another process was
    faster, its folder stays: what is made twice is equal. What is there and `old` is replaced."""
    with cache.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        replaced = temporary.with_name(f"{temporary.name}.old")
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if old():
                    target.rename(replaced)
            try:
                temporary.rename(target)
            except OSError:
                if not (target / META).is_file():
                    raise
        finally:
            for folder in (temporary, replaced):
                shutil.rmtree(folder, ignore_errors=True)


def cached(key: str, fill: Callable[[pathlib.Path], None], noted: Sequence[str] = ()) -> Store:
    """The store named `key` in the cache; `fill` makes it in a folder that it is given, if it is not there yet, or was made
    by a version of this program that did not note all of `noted` with it."""
    target = cache.root() / "stores" / key

    def old() -> bool:
        return (target / META).is_file() and not facts(target).keys() >= set(noted)

    if not (target / META).is_file() or old():
        with folder_at_once(target, old) as folder:
            fill(folder)
    return load(target)
