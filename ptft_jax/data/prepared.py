"""Folders of tokens that `ptft data prepare` wrote, read back: the source kind `tokens:FOLDER`.

FOLDER/manifest.json            what was read, kept and lost; splits and their shards
FOLDER/tokenizer.json ...       the tokenizer, as in a run's workdir
FOLDER/SPLIT/SHARD/             stores (`ptft_jax.data.store`), in order
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.data import cache, jsons, store
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError, nearest

KIND = "tokens"
MANIFEST = "manifest.json"


def manifest(folder: pathlib.Path) -> dict[str, Any]:
    """What was prepared. Raises UserError where the folder holds nothing prepared."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"tokens:{folder}: no {MANIFEST} there; ptft data prepare --out={folder} makes such a folder")
    return jsons.table(path.read_bytes(), str(path))


def load(folder: pathlib.Path, split: str, tokenizer: tok.Tokenizer) -> tuple[store.Store, dict[str, Any]]:
    """A split's shards as one memory-mapped store, and the manifest.

    Raises:
      UserError: no such split, another tokenizer than the one that made the ids, or a damaged shard.
    """
    facts = manifest(folder)
    if split not in facts["splits"]:
        have = facts["splits"]
        raise UserError(f"tokens:{folder}: no {split} split was prepared, only {', '.join(have)}{nearest(split, have)}")
    if tok.fingerprint(tokenizer) != facts["tokenizer"]:
        raise UserError(
            f"tokens:{folder}: its ids were made by another tokenizer than {tokenizer.origin}; it lies beside them: "
            f"tokenizer.kind=file, tokenizer.path={folder}"
        )
    shards = [folder / split / name for name in facts["splits"][split]["shards"]]
    keys = [store.facts(shard)["key"] for shard in shards]
    if len(shards) == 1:
        return store.load(shards[0]), facts
    key = cache.digest("shards-1", *keys)

    def fill(target: pathlib.Path) -> None:
        writer = store.Writer(target, tokenizer.vocab_size)
        for shard in shards:
            store.load(shard)  # complete?
            writer.take(shard)
        writer.close(key)

    return store.cached(key, fill), facts
