"""Where words start in a run of token ids, for every kind of tokenizer.

Words are those of BERT's basic tokenizer (Devlin et al. 2018): they end at white space and at punctuation, each mark of
which is a word, and every CJK character is a word. Their ends are found in the text of the tokens, as a character may be
several of them.
"""

from __future__ import annotations

import functools
import json
import unicodedata

import numpy as np

from ptft_jax.data.tokenizers import FILE, Tokenizer

# BERT's CJK characters: the blocks of Han, without kana and hangul.
_CJK = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_PUNCTUATED = 0x20000  # no punctuation and no space has a larger code point
_ASCII_SIGNS = "$+<=>^`|~"  # BERT takes all that is neither letter nor digit in ASCII for punctuation


class Marks(bytes):
    """Of each id of a vocabulary one byte, 1 for control tokens, else 0; and where words are looked for, the `texts` of the
    tokens, as they follow one another. A control token stands between words, as white space does."""

    texts: tuple[bytes, ...] = ()


def marks(tokenizer: Tokenizer, words: bool) -> Marks:
    """What a builder has to know of a vocabulary; with the texts of its tokens where `words`."""
    flags = np.zeros(tokenizer.vocab_size, np.uint8)
    flags[sorted(tokenizer.special_ids)] = 1
    found = Marks(flags.tobytes())
    if words:
        own = _of_wordpiece(tokenizer)
        texts = (own[i] if i in own else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
        found.texts = tuple(b" " if control else text for control, text in zip(found, texts))
    return found


def special(marks: bytes) -> np.ndarray:
    """bool [V]: the control tokens."""
    return np.frombuffer(marks, np.uint8) > 0


def starts(marks: Marks, ids: np.ndarray) -> np.ndarray:
    """bool [n]: the ids with which a word starts; needs marks that were made with `words`. A token in which a word ends and
    another starts is part of both, which are then one."""
    pieces = [marks.texts[i] for i in ids]
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    data = b"".join(pieces)
    # What is no UTF-8 (a character that is cut in half) becomes code points of one byte each.
    codes = np.frombuffer(data.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), np.uint32)
    apart = _apart()
    alone = apart[np.minimum(codes, len(apart) - 1)]
    at_character = np.ones(len(codes), bool)
    at_character[1:] = alone[1:] | alone[:-1]
    lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    lengths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    at_byte = np.zeros(len(data) + 1, bool)
    at_byte[np.cumsum(lengths) - lengths] = at_character
    found = at_byte[np.cumsum(sizes) - sizes] & (sizes > 0)
    found[:1] = True
    return found


@functools.cache
def _apart() -> np.ndarray:
    """bool [code point]: the characters that are words by themselves, or stand between words; the last entry stands for all
    above."""
    apart = np.zeros(_CJK[-1][1] + 2, bool)
    apart[:_PUNCTUATED] = [
        char.isspace() or char in _ASCII_SIGNS or unicodedata.category(char)[0] == "P"
        for char in map(chr, range(_PUNCTUATED))
    ]
    for first, last in _CJK:
        apart[first : last + 1] = True
    return apart


def _of_wordpiece(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Id -> text of WordPiece's tokens, which mark what continues a word ("##") and nothing else; {} for other models."""
    model = json.loads(tokenizer.files().get(FILE, b"{}")).get("model", {})
    if model.get("type") != "WordPiece":
        return {}
    prefix = model["continuing_subword_prefix"]
    return {
        i: (piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}").encode()
        for piece, i in model["vocab"].items()
    }
