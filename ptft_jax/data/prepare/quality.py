"""Rules by which text is kept or not, that do not depend on its language.

From Gopher: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix
A1.1, the quality filters and table A1 (repetition). From FineWeb: Penedo et al. 2024, "The FineWeb Datasets", section
3.6. Left out: Gopher's stop words (English), its word counts (--min_tokens and --max_tokens say the same in a unit that
holds for every language), C4's terminal punctuation and its lists of English phrases and curly brackets (Raffel et al.
2020, section 2.2: they reject source code), and FineWeb's line endings and short lines (verse, code and scripts
that need fewer characters a line). Source code and tables may need alphabetic_words=off: their signs are "words".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ptft_jax.data.prepare.words import Words, mixed, ngrams
from ptft_jax.errors import UserError, nearest

BULLETS = ("•", "‣", "▪", "▫", "●", "○", "◦", "■", "□", "–", "-", "*")
ELLIPSES = ("...", "…")
_TOP, _REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A measure of a text, and the value from which on the text is rejected.

    Attributes:
      limit: the default.
      least: whether a text below the limit is rejected, instead of one above.
      meaning: what is measured.
      source: where it is from.
    """

    limit: float
    least: bool
    meaning: str
    source: str


def _rules() -> dict[str, Rule]:
    gopher, table = "Gopher A1.1", "Gopher table A1"
    rules = {
        "word_length_min": Rule(3, True, "mean characters of a word", gopher),
        "word_length_max": Rule(10, False, "mean characters of a word", gopher),
        "hashes_per_word": Rule(0.1, False, "number signs per word", gopher),
        "ellipses_per_word": Rule(0.1, False, "ellipses per word", gopher),
        "bullet_lines": Rule(0.9, False, "share of lines that start with a bullet", gopher),
        "ellipsis_lines": Rule(0.3, False, "share of lines that end with an ellipsis", gopher),
        "alphabetic_words": Rule(0.8, True, "share of words with a letter", gopher),
        "duplicate_lines": Rule(0.3, False, "share of lines that were there before", table),
        "duplicate_paragraphs": Rule(0.3, False, "share of paragraphs that were there before", table),
        "duplicate_line_characters": Rule(0.1, False, "share of characters in lines that were there before", "FineWeb"),
        "duplicate_paragraph_characters": Rule(
            0.2, False, "share of characters in paragraphs that were there before", table
        ),
    }
    for n, limit in zip(_TOP, (0.20, 0.18, 0.16)):
        rules[f"top_{n}_gram"] = Rule(limit, False, f"share of characters in the most frequent {n}-gram", table)
    for n, limit in zip(_REPEATED, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)):
        rules[f"duplicate_{n}_grams"] = Rule(
            limit, False, f"share of characters in {n}-grams that were there before", table
        )
    return rules


RULES = _rules()


def limits(text: str) -> dict[str, float | None]:
    """Every rule's limit: the defaults, changed by "NAME=VALUE,..."; a VALUE of `off` (None here) ends a rule.

    Raises:
      UserError: an unknown rule, or a value that is not a number.
    """
    out: dict[str, float | None] = {name: rule.limit for name, rule in RULES.items()}
    for part in filter(None, text.split(",")):
        name, _, value = (x.strip() for x in part.partition("="))
        if name not in RULES:
            raise UserError(f"--quality_rules: no rule {name!r}{nearest(name, RULES)}; there are {', '.join(RULES)}")
        try:
            out[name] = None if value == "off" else float(value)
        except ValueError:
            raise UserError(f"--quality_rules: {part!r}: expected {name}=NUMBER, or {name}=off") from None
        if out[name] is not None and not np.isfinite(out[name]):
            raise UserError(f"--quality_rules: {part!r}: expected a finite number, or {name}=off")
    return out


def rejected(texts: Sequence[str], words: Words, limits: dict[str, float | None]) -> list[tuple[str, float] | None]:
    """For each text the first rule that it breaks and what was measured, or None.

    Args:
      words: `words_of(texts)`.
      limits: of `limits`.
    """
    found: list[tuple[str, float] | None] = [None] * len(texts)
    measured = measures(texts, words)
    for name, rule in RULES.items():
        limit, values = limits[name], measured[name]
        if limit is None:
            continue
        with np.errstate(invalid="ignore"):  # nan: does not apply, and is no loss
            broken = values < limit if rule.least else values > limit
        for i in np.flatnonzero(broken):
            found[i] = found[i] or (name, float(values[i]))
    return found


def measures(texts: Sequence[str], words: Words) -> dict[str, np.ndarray]:
    """Every rule's measure: name -> float64 [texts]; nan where it does not apply.

    Repetition is measured in the words of `words_of`, so neither case nor punctuation hide it; shares of characters are
    of the characters in words. What is counted as repeated is every occurrence but the first, each word once.
    """
    rows = np.asarray([_simple(text) for text in texts], np.float64).reshape(len(texts), len(_SIMPLE))
    out = dict(zip(_SIMPLE, rows.T))
    # Where words are not separated by spaces, nothing says how long they are, nor which have letters.
    alone = np.bincount(words.text_of, words.alone, len(texts)) * 2 > np.maximum(words.counts, 1)
    for name in ("word_length", "alphabetic_words", "hashes_per_word", "ellipses_per_word"):
        out[name] = np.where(alone, np.nan, out[name])
    out["word_length_min"] = out["word_length_max"] = out.pop("word_length")
    characters = np.maximum(np.bincount(words.text_of, words.lengths, len(texts)), 1)
    for n in _TOP:
        out[f"top_{n}_gram"] = _top(words, n, len(texts)) / characters
    for n in _REPEATED:
        out[f"duplicate_{n}_grams"] = _repeated(words, n, len(texts)) / characters
    return out


_SIMPLE = (
    "word_length",
    "hashes_per_word",
    "ellipses_per_word",
    "alphabetic_words",
    "bullet_lines",
    "ellipsis_lines",
    "duplicate_lines",
    "duplicate_line_characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
)


def _simple(text: str) -> tuple[float, ...]:
    """The measures of `_SIMPLE`, by Gopher's words: what white space separates."""
    pieces = text.split()
    count = max(len(pieces), 1)
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    paragraphs = [part for part in map(str.strip, re.split(r"\n\s*\n", text)) if part]
    return (
        sum(map(len, pieces)) / len(pieces) if pieces else np.nan,
        text.count("#") / count,
        sum(map(text.count, ELLIPSES)) / count,
        sum(any(map(str.isalpha, piece)) for piece in pieces) / count if pieces else np.nan,
        sum(line.startswith(BULLETS) for line in lines) / max(len(lines), 1),
        sum(line.endswith(ELLIPSES) for line in lines) / max(len(lines), 1),
        *_again(lines),
        *_again(paragraphs),
    )


def _again(parts: list[str]) -> tuple[float, float]:
    """The share of parts that are equal to an earlier one, and of characters in those."""
    unique = dict.fromkeys(parts)
    if len(unique) == len(parts):
        return 0.0, 0.0
    characters, first = sum(map(len, parts)), sum(map(len, unique))
    return (len(parts) - len(unique)) / len(parts), (characters - first) / characters


def _grams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n-grams sorted by text and content, equal ones in order: first words int64 [grams], whether each equals the one
    before it bool [grams], texts int64 [grams]."""
    hashes, first = ngrams(words, n)
    texts = words.text_of[first]
    keys = mixed(hashes + texts.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = np.zeros(len(keys), bool)
    same[1:] = keys[1:] == keys[:-1]
    return first[order], same, texts[order]


def _top(words: Words, n: int, texts: int) -> np.ndarray:
    """int64 [texts]: characters in the most frequent n-gram, all its occurrences; 0 where none occurs twice. Among
    equally frequent ones, the longest."""
    first, same, text = _grams(words, n)
    out = np.zeros(texts, np.int64)
    if not same.any():
        return out
    starts = np.flatnonzero(~same)
    counts = np.diff(np.append(starts, len(same)))
    ends = np.concatenate([[0], np.cumsum(words.lengths)])
    lengths = ends[first[starts] + n] - ends[first[starts]]
    several = counts > 1
    counts, lengths, text = counts[several], lengths[several], text[starts][several]
    order = np.lexsort([lengths, counts, text])  # by text, then count, then length: the last of each text is its top
    out[text[order]] = (counts * lengths)[order]
    return np.minimum(out, np.bincount(words.text_of, words.lengths, texts).astype(np.int64))


def _repeated(words: Words, n: int, texts: int) -> np.ndarray:
    """int64 [texts]: characters of words that lie in an n-gram that was there before."""
    first, same, _ = _grams(words, n)
    if not same.any():
        return np.zeros(texts, np.int64)
    change = np.zeros(len(words.hashes) + 1, np.int64)
    change[first[same]] += 1
    change[first[same] + n] -= 1  # distinct places, so += counts each
    inside = np.cumsum(change[:-1]) > 0
    return np.bincount(words.text_of, words.lengths * inside, texts).astype(np.int64)
