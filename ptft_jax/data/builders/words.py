"""Where words start in a run of token ids, for every kind of tokenizer."""

from __future__ import annotations

import json

import numpy as np

from ptft_jax.data.tokenizers import FILE, Tokenizer

_SPECIAL, _STARTS, _ENDS = 1, 2, 4


def marks(tokenizer: Tokenizer, words: bool) -> bytes:
    """One byte of flags for each id of the vocabulary: whether it is a control token, and, where `words`, whether it
    starts a word whatever is before it, and whether what comes after it starts one."""
    flags = np.zeros(tokenizer.vocab_size, np.uint8)
    flags[sorted(tokenizer.special_ids)] = _SPECIAL
    if words:
        prefix = _continuing_prefix(tokenizer)
        of = _by_spaces(tokenizer) if prefix is None else _by_prefix(tokenizer, prefix)
        flags |= np.where(flags == _SPECIAL, _STARTS | _ENDS, of).astype(np.uint8)
    return flags.tobytes()


def special(marks: bytes) -> np.ndarray:
    """bool [V]: the control tokens."""
    return np.frombuffer(marks, np.uint8) & _SPECIAL > 0


def starts(marks: bytes, ids: np.ndarray) -> np.ndarray:
    """bool [n]: the ids with which a word starts; needs marks that were made with `words`."""
    flags = np.frombuffer(marks, np.uint8)[ids]
    found = flags & _STARTS > 0
    found[1:] |= flags[:-1] & _ENDS > 0
    found[:1] = True
    return found


def _by_spaces(tokenizer: Tokenizer) -> np.ndarray:
    """A word starts with white space, or after it: byte-level vocabularies and SentencePiece have the space in front of
    a word's first token; in bytes it is a token, and then a word of its own."""
    texts = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return np.asarray([_STARTS * t[:1].isspace() + _ENDS * t[-1:].isspace() for t in texts])


def _by_prefix(tokenizer: Tokenizer, prefix: str) -> np.ndarray:
    """WordPiece marks what continues a word, and nothing else."""
    flags = np.full(tokenizer.vocab_size, _STARTS)
    for piece, i in json.loads(tokenizer.files()[FILE])["model"]["vocab"].items():
        if piece.startswith(prefix):
            flags[i] = 0
    return flags


def _continuing_prefix(tokenizer: Tokenizer) -> str | None:
    """What WordPiece puts before a token that continues a word ("##"); None for other models."""
    model = json.loads(tokenizer.files().get(FILE, b"{}")).get("model", {})
    return model["continuing_subword_prefix"] if model.get("type") == "WordPiece" else None
