"""Writes tokenized examples to disk, in the order given: what `ptft_jax.data.store` reads."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache, jsons, store
from ptft_jax.data.examples import Encoded


class Writer:
    """Fills a folder with examples, in the order given. Nothing is kept in memory.

    Attributes:
      digests: file name -> SHA-256, after `close`.
    """

    def __init__(
        self, folder: pathlib.Path, vocab_size: int, *, keyed: bool = False, masked: bool = False, values: Any = None
    ):
        """
        Args:
          keyed: keys are kept, which `add` is then given.
          masked: there is a file of what is trained also where all is, as prepared shards have it.
          values: the type of ids; None = the narrowest that holds those of the vocabulary.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vocab_size, self._keyed, self._masked = folder, vocab_size, keyed, masked
        self._dtype = values or store.ids_dtype(vocab_size)
        names = ("ids", *store.COLUMNS, *([store.KEYS] if keyed else []))
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in names}  # open until close()
        self._hashes = {name: hashlib.sha256() for name in names}
        self.digests: dict[str, str] = {}
        self.examples = self.sequences = self.tokens = self.empty = self.right = 0
        self._all_trained, self._labelled, self._pairs, self._numeric = True, False, False, False

    def add(self, examples: Sequence[Encoded], origins: Iterable[int], keys: np.ndarray | None = None) -> None:
        """Appends examples made from the records `origins`; `keys`: uint64 [examples, 2]."""
        sequences = [s for e in examples for s in e.sequences]
        self._pairs |= len(sequences) > len(examples)
        self._numeric |= any(e.numeric for e in examples)
        self._labelled |= self._numeric or any(e.label >= 0 for e in examples)
        starts = self.tokens + np.cumsum([0, *(len(s.ids) for s in sequences)])
        values = {
            "ids": _joined([s.ids for s in sequences], self._dtype),
            "lengths": np.asarray([len(s.ids) for s in sequences], np.int64),
            "labels": np.asarray([e.label_bits for e in examples], np.int32),
            "origins": np.asarray(list(origins), np.int64),
            "empty": np.asarray([start + at for start, s in zip(starts, sequences) for at in s.empty], np.int64),
            "right": np.asarray([start + at for start, s in zip(starts, sequences) for at in s.right], np.int64),
            **({store.KEYS: np.asarray(keys, np.uint64)} if self._keyed else {}),
        }
        for name, array in values.items():
            self._write(name, _bytes(array))
        if all(s.trained is None for s in sequences):
            self._add_trained(len(values["ids"]))
        else:
            self._begin_masks()
            masks = [np.ones(len(s.ids), bool) if s.trained is None else s.trained for s in sequences]
            self._write("trained", _bytes(_joined(masks, np.bool_)))
        self.examples += len(examples)
        self.sequences += len(sequences)
        self.tokens += len(values["ids"])
        self.empty += len(values["empty"])
        self.right += len(values["right"])

    def add_long(self, parts: Iterable[np.ndarray], origin: int) -> None:
        """Appends an example that is one sequence, all of it learned, made from a record; its ids, which come in parts, are not
        held."""
        first = self.tokens
        for ids in parts:
            self._write("ids", _bytes(ids.astype(self._dtype)))
            self._add_trained(len(ids))
            self.tokens += len(ids)
        for name, value in (("lengths", self.tokens - first), ("labels", -1), ("origins", origin)):
            self._write(name, _bytes(np.asarray([value], store.COLUMNS[name])))
        self.examples += 1
        self.sequences += 1

    def take(self, part: pathlib.Path) -> None:
        """Appends what another writer has closed."""
        meta = json.loads((part / store.META).read_bytes())
        for name in store.PLACES:
            if meta[name]:  # places in the part become places in the whole
                places = np.fromfile(part / f"{name}.bin", np.int64) + self.tokens
                self._write(name, memoryview(places).cast("B"))
        if meta["all_trained"]:
            self._add_trained(meta["tokens"])
        else:
            self._begin_masks()
        for name in self._files.keys() - {*store.PLACES, *(["trained"] if meta["all_trained"] else [])}:
            with open(part / f"{name}.bin", "rb") as source:
                while data := source.read(1 << 22):
                    self._write(name, data)
        for count in ("examples", "sequences", "tokens", *store.PLACES):
            setattr(self, count, getattr(self, count) + meta[count])
        self._labelled |= meta["labelled"]
        self._numeric |= meta.get("numeric", False)  # not known to earlier versions
        self._pairs |= meta["per_example"] == 2

    def _add_trained(self, count: int) -> None:
        """So many further ids, all of them learned."""
        if self._all_trained and not self._masked:
            return
        for at in range(0, count, 1 << 22):
            self._write("trained", b"\1" * min(1 << 22, count - at))

    def _begin_masks(self) -> None:
        """What follows is not all learned; `tokens` counts what was."""
        if self._all_trained:
            self._all_trained = False
            if not self._masked:
                self._add_trained(self.tokens)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        self._hashes[name].update(data)
        self._files[name].write(data)

    def close(self, key: str | None = "", **facts: Any) -> str:
        """Finishes the folder; `facts` are kept with it (see `facts`). Returns the key; None = one made of the content."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if self._all_trained and not self._masked:
            del self._hashes["trained"]
            (self.folder / "trained.bin").unlink()
        if not self.right:
            del self._hashes["right"]
            (self.folder / "right.bin").unlink()
        self.digests = {f"{name}.bin": hashed.hexdigest() for name, hashed in self._hashes.items()}
        key = store.content_key(self.digests) if key is None else key
        meta = {
            "key": key,
            "dtype": np.dtype(self._dtype).name,
            "examples": self.examples,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "empty": self.empty,
            "right": self.right,
            "per_example": 2 if self._pairs else 1,
            "all_trained": self._all_trained,
            "labelled": self._labelled,
            "numeric": self._numeric,
            "keyed": self._keyed,
            "digests": self.digests,
            **facts,
        }
        text = json.dumps(jsons.with_checksum(meta), indent=1, ensure_ascii=False)
        cache.write_atomic(self.folder / store.META, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return key

    def discard(self) -> None:
        for file in self._files.values():
            file.close()


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1)).cast("B")


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
