"""Folders of tokens that `ptft data prepare` wrote, read back: the source kind `tokens:FOLDER`.

FOLDER/manifest.json            what was read, kept and lost; splits and their shards
FOLDER/tokenizer.json ...       the tokenizer, as in a run's workdir
FOLDER/SPLIT/SHARD/             stores (`ptft_jax.data.store`), in order
"""

from __future__ import annotations

import os
import pathlib
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache, jsons, records, store
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.joined import Joined
from ptft_jax.data.records import files
from ptft_jax.data.tokenizers import alike
from ptft_jax.errors import UserError, nearest

KIND = "tokens"
MANIFEST = "manifest.json"
_EACH, _OTHERS = 8, 256  # files that a shard has open at most, and a process beside its shards


def manifest(folder: pathlib.Path) -> dict[str, Any]:
    """What was prepared. Raises UserError where the folder holds nothing prepared, or a manifest that was altered."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"tokens:{folder}: no {MANIFEST} there; ptft data prepare --out={folder} makes such a folder")
    found = jsons.table(path.read_bytes(), str(path))
    if not jsons.intact(found):
        raise store.Damaged(f"{path}: damaged: it is not what was written; {_remedy(folder)}")
    return found


def load(folder: pathlib.Path, split: str, tokenizer: tok.Tokenizer) -> tuple[store.Store, dict[str, Any]]:
    """A split's shards as one store, memory-mapped where they lie, and the manifest.

    Raises:
      UserError: no such split, another tokenizer than the one that made the ids, or a damaged shard.
    """
    facts = manifest(folder)
    if split not in facts["splits"]:
        have = facts["splits"]
        raise UserError(f"tokens:{folder}: no {split} split was prepared, only {', '.join(have)}{nearest(split, have)}")
    if tok.fingerprint(tokenizer) != facts["tokenizer"] and not _gives_same_ids(folder, facts, tokenizer):
        raise UserError(
            f"tokens:{folder}: its ids were made by another tokenizer than {tokenizer.origin}; it lies beside them: "
            f"tokenizer.kind=file, tokenizer.path={folder}"
        )
    shards = [folder / split / name for name in facts["splits"][split]["shards"]]
    _allow_files(_EACH * len(shards), f"tokens:{folder}: the {len(shards)} shards of {split}")
    stores = [_checked(folder, shard, facts["splits"][split]["contents"][shard.name]) for shard in shards]
    if len(stores) == 1:
        return stores[0], facts
    return joined(stores, cache.digest("shards-2", *(one.key for one in stores))), facts


def _allow_files(count: int, what: str) -> None:
    """Lets this process have so many more files open where its own limit is lower than that of the system: each array that is mapped is one. Raises
    UserError where both are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHERS
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"{what} need {needed} open files, and this system allows {hard} (ulimit -n): prepare with fewer --shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def joined(stores: Sequence[store.Store], key: str) -> store.Store:
    """Stores of one kind as one, whose key this is: what a `ptft_jax.data.store_writer.Writer` that took them would have written."""
    starts = np.cumsum([0, *(len(one.ids) for one in stores)]).tolist()
    masked, labelled = (any(getattr(one, name) is not None for one in stores) for name in ("trained", "labels"))
    keyed = all(one.keys is not None for one in stores)
    kind = next((one.labels.dtype for one in stores if one.labels is not None), np.dtype(np.int32))
    return store.Store(
        ids=Joined([one.ids for one in stores]),
        offsets=np.concatenate([[0], *(one.offsets[1:] + start for one, start in zip(stores, starts))]),
        trained=Joined([_learned(one) for one in stores]) if masked else None,
        labels=np.concatenate([_labels(one, kind) for one in stores]) if labelled else None,
        origins=Joined([one.origins for one in stores]),
        key=key,
        per_example=max(one.per_example for one in stores),
        empty=np.concatenate([one.empty + start for one, start in zip(stores, starts)]),
        keys=np.concatenate([one.keys for one in stores]) if keyed else None,
        right=np.concatenate([one.right + start for one, start in zip(stores, starts)]),
    )


def _learned(one: store.Store) -> np.ndarray:
    """bool [N], in no memory where all ids are learned."""
    return np.broadcast_to(np.True_, len(one.ids)) if one.trained is None else one.trained


def _labels(one: store.Store, kind: np.dtype) -> np.ndarray:
    """Those of a store, of one without any what stands for none."""
    return np.full(len(one), -1, np.int32).view(kind) if one.labels is None else one.labels


def _gives_same_ids(folder: pathlib.Path, facts: Mapping[str, Any], tokenizer: tok.Tokenizer) -> bool:
    """Whether a tokenizer gives the ids of the one that lies beside them, though it is written otherwise."""
    try:
        beside = tok.from_file(folder)
    except UserError:
        return False
    return tok.fingerprint(beside) == facts["tokenizer"] and alike.same(beside, tokenizer)


def _checked(folder: pathlib.Path, shard: pathlib.Path, content: Mapping[str, Any]) -> store.Store:
    """A shard, all of whose files are as they were written. Raises Damaged."""
    remedy = _remedy(folder)
    meta = store.facts(shard, remedy)
    loaded = store.load(shard, remedy)
    found = store.digests(shard)
    noted = meta.get("digests", found)  # earlier releases noted the digest of all
    for name in sorted({*noted, *found}):
        if noted.get(name) != found.get(name):
            raise store.Damaged(f"{shard / name}: damaged: it is not what was written; {remedy}")
    if not meta["key"] == content["digest"] == store.content_key(found):
        raise store.Damaged(f"{shard}: damaged: it is not the shard of which {MANIFEST} has the digest; {remedy}")
    return loaded


def _remedy(folder: pathlib.Path) -> str:
    return f"copy {folder} again from where it is whole, or delete it and have ptft data prepare make it again"


class Kept:
    """A split's records as far as a prepared folder knows them: for `ptft_jax.data.leaks`."""

    def __init__(self, folder: pathlib.Path, split: str, keys: np.ndarray):
        self._place, self._keys = f"{folder}/{split}", keys

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, which: range | None = None) -> np.ndarray:
        return self._keys if which is None else self._keys[which.start : which.stop]

    def ids(self) -> np.ndarray:
        return np.zeros(len(self), np.uint64)

    def where(self, index: int) -> str:
        return f"{self._place}, example {index}"


def kept(folder: pathlib.Path, split: str) -> Kept | None:
    """The records of a split; None where none is there, or an earlier release prepared it, which noted no keys."""
    facts = manifest(folder)
    if split not in facts["splits"]:
        return None
    found = [store.load(folder / split / name, _remedy(folder)).keys for name in facts["splits"][split]["shards"]]
    return None if any(keys is None for keys in found) else Kept(folder, split, np.concatenate(found))


def noted(sources: Mapping[str, records.Source]) -> dict[str, Any]:
    """What the manifest says of the files of sources, by which `changed` knows them again."""
    here, found = os.getcwd(), {}
    for reference, source in sources.items():
        stamps = {name: (files.Stamp.of(os.stat(_at(here, name))), digest) for name, digest in source.files().items()}
        known = {name: [stamp.size, stamp.modified, digest] for name, (stamp, digest) in stamps.items()}
        found[reference] = {"folder": here, "files": known}
    return found


def changed(facts: Mapping[str, Any]) -> list[str]:
    """ "REFERENCE: FILE" of each source of a prepared folder that is no longer what it was, as far as it is where it was then.
    A file is read only where its time has changed and its size has not."""
    found = []
    for reference, then in facts.get("sources", {}).items():
        known = {_at(then["folder"], name): stamp for name, stamp in then["files"].items()}
        if not any(map(os.path.isfile, known)):
            continue
        now = {_at(then["folder"], name) for name in records.file_names(reference, then["folder"])} or {*known}
        altered = [path for path in known if path not in now or not _same(path, *known[path])]
        found += [f"{reference}: {path}" for path in (*altered, *sorted(now - {*known}))][:1]
    return found


def _at(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, os.path.expanduser(name)))


def _same(path: str, size: int, modified: int, digest: str) -> bool:
    if not os.path.isfile(path):
        return False
    stamp = files.Stamp.of(os.stat(path))
    if stamp.size != size:
        return False
    return stamp.modified == modified or files.content_digest(pathlib.Path(path), path) == digest
