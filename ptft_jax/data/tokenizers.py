"""Text to token ids and back: bytes, or byte-level BPE by the `tokenizers` library. Both are lossless."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"


class ByteTokenizer:
    """Ids 0-255 are the bytes of UTF-8; 256 ends a text. Nothing to train, nothing unknown."""

    vocab_size = 257
    end_id = 256

    def encode(self, text: str) -> np.ndarray:
        """int32 [n]."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens."""
        return bytes([token]) if token < 256 else b""

    def to_json(self) -> str:
        return json.dumps({"ptft_jax": "bytes"})


class BPETokenizer:
    """A byte-level BPE in the format of `tokenizers` (tokenizer.json)."""

    def __init__(self, text: str, origin: str):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as e:  # the library raises plain Exception
            raise UserError(f"{origin}: not a tokenizer file: {e}") from e
        self._json = text
        self.vocab_size = self._tokenizer.get_vocab_size()
        end = self._tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise UserError(f"{origin}: the tokenizer has no {END_OF_TEXT} token")
        self.end_id = end
        self._byte_of = {char: byte for byte, char in _byte_alphabet().items()}

    def encode(self, text: str) -> np.ndarray:
        """int32 [n]. Text that spells a special token is encoded as plain text, never as that token."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        # Long texts are cut so that they are encoded in parallel: before the last of the newlines that precede a
        # paragraph, where the byte-level pre-tokenizer cuts too, so the ids are those of the whole text.
        parts, owner = [], []
        for i, text in enumerate(texts):
            for part in _paragraphs(text):
                parts.append(part)
                owner.append(i)
        self._tokenizer.encode_special_tokens = True
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        for i, encoding in zip(owner, self._tokenizer.encode_batch_fast(parts, add_special_tokens=False)):
            ids[i].append(np.asarray(encoding.ids, np.int32))
        return [np.concatenate(row) if row else np.zeros(0, np.int32) for row in ids]

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens."""
        piece = self._tokenizer.id_to_token(int(token))
        if piece is None or token == self.end_id:
            return b""
        return bytes(self._byte_of[char] for char in piece)

    def to_json(self) -> str:
        return self._json


Tokenizer = ByteTokenizer | BPETokenizer


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids to text; bytes that are no UTF-8 (a character cut in half) show as U+FFFD."""
    return b"".join(tokenizer.token_bytes(int(i)) for i in ids).decode("utf-8", errors="replace")


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """int32 [V]: how many bytes each token stands for; the end of a text counts as none."""
    return np.asarray([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int32)


def fingerprint(tokenizer: Tokenizer) -> str:
    """32 hex digits; equal for tokenizers that map text to the same ids."""
    return cache.digest(tokenizer.to_json())


def from_file(path: pathlib.Path) -> Tokenizer:
    """Reads tokenizer.json, or that file of a run's workdir. Raises UserError where there is none."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer file")
    text = file.read_text()
    try:
        is_bytes = json.loads(text) == {"ptft_jax": "bytes"}
    except ValueError as e:
        raise UserError(f"{file}: not a tokenizer file: {e}") from e
    return ByteTokenizer() if is_bytes else BPETokenizer(text, str(file))


def train_bpe(texts: Sequence[str], vocab_size: int) -> BPETokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, cached by the texts' content.

    Raises:
      UserError: the texts are too short for so many merges.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    key = cache.digest("bpe-1", tokenizers.__version__, str(vocab_size), *texts)
    path = cache.root() / "tokenizers" / key / FILE
    if not path.exists():
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        found = tokenizer.get_vocab_size()
        if found != vocab_size:
            raise UserError(f"config.tokenizer.vocab_size = {vocab_size}: the training text gives only {found} tokens")
        cache.write_atomic(path, lambda temporary: temporary.write_text(tokenizer.to_str()))
    return BPETokenizer(path.read_text(), str(path))


def build(config: Any, train_texts: Sequence[str], parent: pathlib.Path | None) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names; `parent` is the workdir of the run this one starts from.

    Raises:
      UserError: no such file, or another vocabulary than the parent's, whose embeddings would then mean other tokens.
    """
    kind = config.kind
    if kind == "auto":
        return from_file(parent) if parent else ByteTokenizer()
    if kind == "byte":
        tokenizer: Tokenizer = ByteTokenizer()
    elif kind == "bpe":
        tokenizer = train_bpe(train_texts, config.vocab_size)
    else:
        tokenizer = from_file(pathlib.Path(config.path).expanduser())
    if parent and fingerprint(tokenizer) != fingerprint(from_file(parent)):
        raise UserError(
            f"config.tokenizer.kind = {kind!r}: its vocabulary ({tokenizer.vocab_size} tokens) is not that of the parent "
            f"{parent} ({from_file(parent).vocab_size} tokens); leave it at 'auto' to use the parent's"
        )
    return tokenizer


def _paragraphs(text: str) -> list[str]:
    starts = [0, *(m.end() - 1 for m in re.finditer(r"\n\n(?=\S)", text)), len(text)]
    # Group short paragraphs, ~4 kB a piece: fewer calls, same ids.
    cuts = [0]
    for start in starts[1:]:
        if start - cuts[-1] >= 4096:
            cuts.append(start)
    if cuts[-1] != len(text):
        cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:])]


def _byte_alphabet() -> dict[int, str]:
    """How byte-level BPE writes bytes as printable characters (Radford et al. 2019, GPT-2's encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + n) for n, byte in enumerate(rest)}
