"""A split of a source as one stream of token ids: memory-mapped, cached by content."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ptft_jax.data import cache, sources
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """The texts of a split, one after the other, each ended by the end-of-text token, and started by a BOS token where
    the tokenizer has texts start with one.

    Attributes:
      ids: uint16 or uint32 [n], memory-mapped.
      key: digest of the ids, which names this data in checkpoints and lineage.
      texts: how many texts.
    """

    ids: np.ndarray
    key: str
    texts: int

    def __len__(self) -> int:
        return len(self.ids)


def encode(documents: sources.Documents, tokenizer: tok.Tokenizer) -> TokenStream:
    """Tokenises a split, or maps what an earlier run tokenised. Two runs may build it at once."""
    key = cache.digest("tokens-1", tok.fingerprint(tokenizer), *documents.texts)
    path = cache.root() / "tokens" / f"{key}.npy"
    if not path.exists():
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        start, end = np.asarray(tokenizer.prefix_ids, np.int32), np.asarray([tokenizer.end_id], np.int32)
        rows = [part for ids in tokenizer.encode_all(documents.texts) for part in (start, ids, end)]
        ids = np.concatenate(rows).astype(dtype)
        cache.write_atomic(path, lambda temporary: np.save(temporary, ids))
    return TokenStream(np.load(path, mmap_mode="r"), key, len(documents.texts))


def limited(stream: TokenStream, most: int) -> TokenStream:
    """The first `most` tokens (0 = all). Raises UserError where there are fewer, rather than pretend."""
    if not most:
        return stream
    if most > len(stream):
        raise UserError(f"config.data.train_tokens = {most}: the training split has only {len(stream)} tokens")
    return TokenStream(stream.ids[:most], cache.digest(stream.key, str(most)), stream.texts)


class Windows:
    """Non-overlapping rows of a stream, index-addressed: inputs `length` tokens, targets the same shifted by one.

    Every token but the first is a target exactly once; the last row may be short, then it is padded with weight 0.
    """

    def __init__(self, stream: TokenStream, length: int, *, partial: bool, field: str):
        targets = len(stream) - 1
        self._ids, self._length = stream.ids, length
        self._count = -(-targets // length) if partial else targets // length
        if (targets < length and not partial) or targets < 1:
            raise UserError(
                f"{field} = {length}: the split has only {len(stream)} tokens, fewer than one row needs ({length + 1})"
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """tokens, targets int32 [T]; weights float32 [T]."""
        start = int(index) * self._length
        row = np.asarray(self._ids[start : start + self._length + 1], np.int32)
        real = len(row) - 1
        row = np.pad(row, (0, self._length - real))
        return {
            "tokens": row[:-1],
            "targets": row[1:],
            "weights": (np.arange(self._length) < real).astype(np.float32),
        }
