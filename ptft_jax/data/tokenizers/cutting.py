"""Where a long text may be cut so that the ids of its parts, one after the other, are those of the whole.

Pipelines cut texts at white space before they merge anything, so that nothing on one side of such a place decides the ids on the
other. For those that are known (`of_pipeline`, `of_pattern`) there are places where all their steps cut, whatever stands further
away:

- before a space that stands alone between two letters of ASCII: a word takes the space before it along, or none;
- at the last line feed of a run of white space that a visible character follows. GPT-2's pattern makes a token of that line feed
  (all white space before it is one, too: `\\s+(?!\\S)`), so the place is before it; the later ones have a run of white space end
  with it (`\\s*[\\r\\n]+`), so the place is behind it; those that throw white space away do so on both sides.

A text without such places is one part, and so is any text where a normalizer, pre-tokenizer or added token is another: one that
could make, take away or reach over white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ptft_jax.data.tokenizers.patterns import PATTERNS
from ptft_jax.data.tokenizers.settings import AddedToken

PART = 4096  # characters of a part that is encoded at once, about: the library encodes parts in parallel
BLOCK = 1 << 20  # characters of a text that are held at once, about
# Visible to all: neither white space nor a control character to any library, nor the slash that one pattern adds to line ends.
_VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f\u180e/]"
_WORDS = r"(?<=[A-Za-z])(?= [A-Za-z])"
Places = re.Pattern[str]
WORDS: Places = re.compile(_WORDS)
BEFORE: Places = re.compile(rf"(?=\n{_VISIBLE})|{_WORDS}")
BEHIND: Places = re.compile(rf"(?<=\n)(?={_VISIBLE})|{_WORDS}")
ANYWHERE: Places = re.compile(r"(?s)(?<=.)(?=.)")
_NEEDED = 2  # characters on a side of a place that tell that it is one


def parts(text: str, places: Places, most: int) -> list[str]:
    """A text cut into parts of at least `most` characters, but for the last; [] of an empty one."""
    cuts, at = [0], most
    while at < len(text) and (place := places.search(text, at)):
        cuts.append(place.start())
        at = place.start() + most
    cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:]) if a < b]


def regrouped(blocks: Iterable[str], places: Places, most: int) -> Iterator[str]:
    """The text that blocks make, in parts that are cut where it may be: of at least `most` characters, but for the last. Not
    more than a part and a block of it are held."""
    held: list[str] = []  # has no place
    fresh: list[str] = []
    size = 0
    for block in blocks:
        fresh.append(block)
        size += len(block)
        if size < most:
            continue
        text = "".join(fresh)
        if last := _last(text, places):
            yield "".join([*held, text[:last]])
            held, fresh = [], [text[last:]]
            size = len(text) - last
        else:
            held, fresh, size = [*held, text[:-_NEEDED]], [text[-_NEEDED:]], 0
    if rest := "".join([*held, *fresh]):
        yield rest


def _last(text: str, places: Places) -> int:
    """The last place, 0 where there is none. Looks from the end, further and further."""
    stop, step = len(text), 1024
    while stop > 0:
        start = max(0, stop - step)
        found = [place.start() for place in places.finditer(text, start)]
        if found and found[-1]:
            return found[-1]
        stop, step = start, 4 * step
    return 0


def of_pattern(pattern: str) -> Places | None:
    """The places of a pattern by which texts are cut before merging; None where it is not known."""
    if pattern not in PATTERNS.values():
        return None
    return BEFORE if pattern == PATTERNS["gpt2"] else BEHIND


def of_pipeline(pipeline: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], special: bool) -> Places | None:
    """The places of a pipeline of the `tokenizers` library; None where there are none, or that cannot be told.

    Args:
      pipeline: the content of a tokenizer.json.
      entries: its added tokens.
      special: whether those of them that are control tokens are looked for in texts.
    """
    if pipeline["model"].get("dropout"):
        return None
    normalizers, splitters = steps(pipeline.get("normalizer")), steps(pipeline.get("pre_tokenizer"))
    looked_for = [entry for entry in entries if special or not entry["special"]]
    if normalizers and any(entry.get("normalized", True) for entry in looked_for):
        return None
    added = [AddedToken(e["content"], **{name: bool(e.get(name)) for name in _LOOKS}) for e in looked_for]
    return beside(_of_steps(normalizers, splitters), added)


_LOOKS = ("lstrip", "rstrip", "single_word")
_WITHOUT_SPACE = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")  # they throw white space away, wherever it is


def _of_steps(normalizers: Sequence[Mapping[str, Any]], splitters: Sequence[Mapping[str, Any]]) -> Places | None:
    if not splitters or not all(map(_is_near, splitters)):
        return None
    if splitters[0]["type"] in _WITHOUT_SPACE:
        return BEHIND if all(map(_keeps_space, normalizers)) else None
    if not all(step["type"] in ("NFC", "NFD", "Lowercase") for step in normalizers):
        return None
    found = {places for places in map(_places, splitters) if places}
    if found == {BEFORE} and _places(splitters[0]) is None:
        return WORDS  # what cuts before a digit hides from GPT-2's pattern that it follows
    return found.pop() if len(found) == 1 else None


def beside(places: Places | None, added: Sequence[AddedToken]) -> Places | None:
    """Which of these places there are where tokens are found in texts first, between which texts are cut on their own: none where
    a token has white space in it, or looks at what is beside it."""
    if not added or places is None:
        return places
    if any(token.lstrip or token.rstrip or token.single_word or re.search(r"\s", token.content) for token in added):
        return None
    return {ANYWHERE: BEHIND, BEFORE: WORDS}.get(places, places)


def steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, flat."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or part.get("decoders")
    return [step for item in inner for step in steps(item)] if part["type"] == "Sequence" and inner else [part]


def _keeps_space(step: Mapping[str, Any]) -> bool:
    """Whether a normalizer leaves white space where it is, as far as it is white space at all, and joins nothing over it."""
    if step["type"] == "Replace":
        pattern = step["pattern"].get("String")
        return pattern is not None and not re.search(r"\s", pattern)
    return step["type"] in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")


def _is_near(step: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer looks no further than one character, or is one whose places are known."""
    if step["type"] == "ByteLevel":
        return not step.get("add_prefix_space")
    return step["type"] in ("Digits", "Punctuation", *_WITHOUT_SPACE) or _places(step) is not None


def _places(step: Mapping[str, Any]) -> Places | None:
    """Where a pre-tokenizer cuts; None for one that need not cut there."""
    if step["type"] == "ByteLevel" and step.get("use_regex", True):
        return BEFORE
    if step["type"] == "Split" and (
        step["behavior"] == "Isolated" or (step["behavior"] == "Removed" and step["invert"])
    ):
        return of_pattern(step["pattern"].get("Regex", ""))
    return BEHIND if step["type"] in _WITHOUT_SPACE else None
