"""Words and word n-grams of many texts at once, as 64-bit hashes in numpy arrays.

What a word is does not depend on the language: after Unicode NFKC and case folding, a longest run of letters, marks and
digits; in scripts written without spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese, Tibetan ...) each
character is a word.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence

import numpy as np

SEPARATOR, INSIDE, ALONE = 0, 1, 2  # classes of characters
_CLASSIFIED = 0x40000  # above: tags, variation selectors, private use; none is a letter
# Blocks of scripts written without spaces between words.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF),  # Tai Le, New Tai Lue, Buginese, Tai Tham
    (0x2E80, 0x312F),  # CJK radicals, kana, bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),  # kana supplements
    (0x20000, 0x3FFFF),  # Han
)
# Odd multipliers: fixed, so that hashes are the same on every machine and in every process.
_CHARACTER, _WORD, _LENGTH = (np.uint64(n) for n in (0x9E6F1DAF2C7A5B15, 0xC2B2AE3D27D4EB4F, 0x9E3779B97F4A7C15))


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of texts, one text after the other.

    Attributes:
      hashes: uint64 [words].
      lengths: int64 [words], in characters.
      offsets: int64 [texts + 1]; the words of text i are offsets[i] .. offsets[i + 1].
      alone: bool [words], the words that are a character of a script without spaces.
    """

    hashes: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray
    alone: np.ndarray

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """int64 [texts], words a text."""
        return np.diff(self.offsets)

    @functools.cached_property
    def text_of(self) -> np.ndarray:
        """int64 [words], the text that a word is in."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def words_of(texts: Sequence[str]) -> Words:
    """The words of each text."""
    folded = [unicodedata.normalize("NFKC", text).casefold() for text in texts]
    # Lone surrogates are no letters; that a text has some is for the tokenizer to refuse.
    codes = np.frombuffer("\n".join([*folded, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    classes = _classes()[np.minimum(codes, _CLASSIFIED)]
    before, after = np.roll(classes, 1), np.roll(classes, -1)  # every text is followed by a separator
    inside, alone = classes == INSIDE, classes == ALONE
    starts = np.flatnonzero(alone | (inside & (before != INSIDE)))
    ends = np.flatnonzero(alone | (inside & (after != INSIDE))) + 1
    lengths = ends - starts
    hashes = _polynomials(codes[classes != SEPARATOR].astype(np.uint64), lengths, _CHARACTER)
    text_ends = np.cumsum([len(text) + 1 for text in folded], dtype=np.int64)
    offsets = np.concatenate([[0], np.searchsorted(starts, text_ends)]).astype(np.int64)
    return Words(hashes, lengths, offsets, alone[starts])


def ngrams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every run of n words that lies in one text.

    Returns:
      uint64 [grams], the hashes, in order; int64 [grams], the index of each one's first word.
    """
    windows = len(words.hashes) - n + 1
    if windows <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    first = np.flatnonzero(words.text_of[:windows] == words.text_of[n - 1 :])
    total = words.hashes[:windows].copy()
    power = _WORD
    for k in range(1, n):
        total += words.hashes[k : k + windows] * power
        power = _times(power, _WORD)
    return mixed(total[first] + _times(np.uint64(n), _LENGTH)), first


def whole(words: Words) -> np.ndarray:
    """uint64 [texts]: each text's words as one n-gram, equal to what `ngrams` gives for that n; without words, 0."""
    filled = words.counts > 0
    out = np.zeros(len(words.counts), np.uint64)
    out[filled] = _polynomials(words.hashes, words.counts[filled], _WORD)
    return out


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64 [...] -> uint64 [...]: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection after which
    every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _polynomials(values: np.ndarray, lengths: np.ndarray, base: np.uint64) -> np.ndarray:
    """Hashes of consecutive runs of `lengths` >= 1 values: sum of value[k] * base**k modulo 2**64, mixed."""
    if not len(lengths):
        return np.zeros(0, np.uint64)
    starts = np.cumsum(lengths) - lengths
    powers = np.full(lengths.max(), base, np.uint64)
    powers[0] = 1
    powers = np.cumprod(powers, dtype=np.uint64)
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    return mixed(np.add.reduceat(values * powers[place], starts) + lengths.astype(np.uint64) * _LENGTH)


def _times(a: np.uint64, b: np.uint64) -> np.uint64:
    return np.uint64(int(a) * int(b) % 2**64)  # numpy warns of scalars that wrap around


@functools.cache
def _classes() -> np.ndarray:
    """uint8 [code point], a character's class; the last entry stands for all above."""
    classes = np.zeros(_CLASSIFIED + 1, np.uint8)
    classes[:_CLASSIFIED] = [unicodedata.category(chr(code))[0] in "LMN" for code in range(_CLASSIFIED)]
    for first, last in _UNSPACED:
        classes[first : last + 1] *= ALONE
    return classes
