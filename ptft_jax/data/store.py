"""Tokenized examples on disk: memory-mapped, keyed by content, built in parallel, complete or not there at all, and checked
against their digests when they are opened."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ptft_jax.data import cache, checked, jsons
from ptft_jax.data.joined import head
from ptft_jax.errors import UserError

META = "meta.json"
_SPANS = 1 << 23  # ids of spans that are looked at together
# What a store has besides `ids`: file name -> dtype. The keys (two numbers each) only where they are given.
COLUMNS = {
    "lengths": np.int64,
    "trained": np.bool_,
    "labels": np.int32,
    "origins": np.int64,
    "empty": np.int64,
    "right": np.int64,
}
PLACES = ("empty", "right")  # of these: places among the ids, each a count in `META`
KEYS = "keys"


class Damaged(UserError):
    """A store that is not what was written."""


@dataclasses.dataclass(frozen=True)
class Store:
    """Token ids of many examples, one after the other. An example is one sequence; a preference pair is two, the better
    answer first.

    Attributes:
      ids: uint16 or uint32 [N], memory-mapped (of several shards a `ptft_jax.data.joined.Joined`, as are `trained` and `origins`); of images
        their pixels, uint8.
      offsets: int64 [sequences + 1], where sequences start and the last ends.
      trained: bool [N], the ids that are targets of the loss; None = all.
      labels: int32 [examples] of classification, float32 of regression, else None.
      origins: int64 [examples], which record of the source each was made from.
      key: digest that names the content in checkpoints and lineage.
      per_example: sequences of an example, 1 or 2.
      empty: int64 [n], where in `ids` answers begin that are learned and have nothing in them.
      right: int64 [n], where in `ids` steps end that are right.
      keys: uint64 [examples, 2], `Records.keys` of what each was made from; None where they are not kept.
    """

    ids: np.ndarray
    offsets: np.ndarray
    trained: np.ndarray | None
    labels: np.ndarray | None
    origins: np.ndarray
    key: str
    per_example: int = 1
    empty: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    keys: np.ndarray | None = None
    right: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

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
            head(self.ids, tokens),
            offsets,
            None if self.trained is None else head(self.trained, tokens),
            None if self.labels is None else self.labels[:examples],
            head(self.origins, examples),
            cache.digest(self.key, str(tokens)),
            self.per_example,
            self.empty[self.empty < tokens],
            None if self.keys is None else self.keys[:examples],
            self.right[self.right < tokens],
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

    def same(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """bool [n]: whether two spans (start, stop; int64 [n, 2] each) hold the same ids, of which the same are targets."""
        equal = np.diff(first)[:, 0] == np.diff(second)[:, 0]
        arrays = [self.ids] + ([] if self.trained is None else [self.trained])
        for n in np.flatnonzero(equal):
            (a, b), (c, d) = first[n], second[n]
            equal[n] = all(np.array_equal(array[a:b], array[c:d]) for array in arrays)
        return equal


def ids_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The narrowest type that holds the ids of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def content_key(digests: Mapping[str, str]) -> str:
    """The key of a store whose files (name -> SHA-256) these are."""
    return cache.digest(*(part for name in sorted(digests) for part in (name, digests[name])))


def facts(folder: pathlib.Path, remedy: str = "") -> dict[str, Any]:
    """What `Writer.close` noted of a store. Raises UserError where there is none, Damaged where it was altered since."""
    path = pathlib.Path(folder) / META
    remedy = remedy or f"delete {folder} to have it made again"
    try:
        found = jsons.table(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{folder}: no tokenized data here (no {META})") from None
    except UserError as e:
        raise Damaged(f"{e}; {remedy}") from e
    if not jsons.intact(found):
        raise Damaged(f"{path}: damaged: it is not what was written; {remedy}")
    return found


def load(folder: pathlib.Path, remedy: str = "") -> Store:
    """Maps a finished store, once its files have been compared with their digests (see `verify`).

    Args:
      remedy: what to do about damage, for its message; "" = delete the folder.

    Raises:
      UserError: there is none.
      Damaged: files are missing, too short, or not what was written.
    """
    folder = pathlib.Path(folder)
    meta = facts(folder, remedy)
    remedy = remedy or f"delete {folder} to have it made again"

    def array(name: str, dtype: Any, count: int) -> np.ndarray:
        path = folder / f"{name}.bin"
        expected, have = count * np.dtype(dtype).itemsize, path.stat().st_size if path.is_file() else -1
        if have != expected:
            raise Damaged(f"{path}: {have} bytes, expected {expected}: damaged; {remedy}")
        # As a plain array: slicing a memmap object costs microseconds more.
        return np.asarray(np.memmap(path, dtype, "r")) if count else np.zeros(0, dtype)

    tokens, sequences, examples = meta["tokens"], meta["sequences"], meta["examples"]
    arrays = {
        "lengths": array("lengths", np.int64, sequences),
        "ids": array("ids", np.dtype(meta["dtype"]), tokens),
        "origins": array("origins", np.int64, examples),
        **({} if meta["all_trained"] else {"trained": array("trained", np.bool_, tokens)}),
        **(
            {"labels": array("labels", np.float32 if meta.get("numeric") else np.int32, examples)}
            if meta["labelled"]
            else {}
        ),
        **{name: array(name, np.int64, meta[name]) for name in PLACES if meta.get(name)},
        **({KEYS: array(KEYS, np.uint64, 2 * examples).reshape(-1, 2)} if meta.get("keyed") else {}),
    }
    if "digests" in meta:  # not in what earlier releases prepared
        verify(folder, {name: meta["digests"][name] for name in (f"{array}.bin" for array in arrays)}, remedy)
    return Store(
        ids=arrays["ids"],
        offsets=np.concatenate([[0], np.cumsum(arrays["lengths"], dtype=np.int64)]),
        trained=arrays.get("trained"),
        labels=arrays.get("labels"),
        origins=arrays["origins"],
        key=meta["key"],
        per_example=meta["per_example"],
        empty=arrays.get("empty", np.zeros(0, np.int64)),
        keys=arrays.get(KEYS),
        right=arrays.get("right", np.zeros(0, np.int64)),
    )


def verify(folder: pathlib.Path, digests: Mapping[str, str], remedy: str) -> None:
    """Compares files (name -> SHA-256) with what they are: each read, several at a time, where its size, times or inode have
    changed since a process last did, or that is a week ago (`ptft_jax.data.checked`).

    Raises:
      Damaged: one differs.
    """
    names, known = list(digests), checked.Digests(folder)
    with concurrent.futures.ThreadPoolExecutor(min(len(names), os.cpu_count() or 1, 8)) as pool:
        found = list(pool.map(lambda name: known.sha256(folder / name), names))
    known.save()
    for name, digest in zip(names, found):
        if digest != digests[name]:
            raise Damaged(
                f"{folder / name}: damaged: its SHA-256 is {digest}, and {digests[name]} was written; {remedy}"
            )


def digests(folder: pathlib.Path) -> dict[str, str]:
    """File name -> SHA-256, of all that a store's folder holds. Files are read as `verify` does."""
    known = checked.Digests(folder)
    found = {path.name: known.sha256(path) for path in sorted(folder.glob("*.bin"))}
    known.save()
    return found


@contextlib.contextmanager
def folder_at_once(target: pathlib.Path, of: str = "") -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes `target` at the end, or is deleted if anything fails. Where another process was
    faster, its folder stays: what is made twice is equal. `of` as for `cache.placing`."""
    with cache.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        cache.clear_left(target.parent)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            with cache.at_work(temporary):
                yield temporary
            os.chmod(temporary, 0o755)
            with cache.placing(target, of):
                try:
                    temporary.rename(target)
                except OSError:
                    if not (target / META).is_file():
                        raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def cached(key: str, fill: Callable[[pathlib.Path], None], of: str = "") -> Store:
    """The store named `key` in the cache; `fill` makes it, of what people call `of`, in a folder that it is given, if it is not there
    yet, or damaged (which is said on stderr)."""
    target = cache.root() / "stores" / key
    if cache.used(target / META, of):
        at = target.stat()
        try:
            return load(target, "it is made again")
        except Damaged as e:
            print(e, file=sys.stderr, flush=True)
            _remove(target, at)
        except FileNotFoundError:  # another process has removed it, as it is damaged
            pass
    with folder_at_once(target, of) as folder:
        try:
            fill(folder)
        except FileNotFoundError:  # another process was faster, and took away the parts that both were making
            if not cache.used(target / META, of):
                raise
            return load(target)
    return load(target)


def _remove(target: pathlib.Path, damaged: os.stat_result) -> None:
    """Removes a folder, unless another process has replaced it since."""
    with contextlib.suppress(FileNotFoundError):
        if not os.path.samestat(target.stat(), damaged):
            return
        aside = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.")) / "damaged"
        target.rename(aside)
        shutil.rmtree(aside.parent, ignore_errors=True)
