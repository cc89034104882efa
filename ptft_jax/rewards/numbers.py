"""Answers that end with a number: found as GSM8K and MATH write them, and compared as numbers."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Verifier
from ptft_jax.rewards.texts import shown

_DIGITS = 1000  # of a number, at most: what is longer is none
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\.)\.\d+"
# A sign counts where it touches the number, and nothing stands before it that it could be a difference of.
NUMBER = re.compile(
    rf"""
    (?<![\w^/])(?<!\w\.)(?<!^\.)(?<!\d,)
    (?P<sign>(?<![\w)\]}}])[-+])? (?:[$€£¥][ ]?)? (?P<inner>(?<=[$€£¥])[-+])?
    (?:(?P<whole>\d{{1,6}})[ ](?P<over>\d{{1,6}})/(?P<under>\d{{1,6}})(?![\d/]|\.\d)
      |(?P<number>{_PLAIN})
       (?:[eE](?P<e>[-+]?\d{{1,4}})(?!\w)|[ ]?(?:\\times|\\cdot|×|\*)[ ]?10\^\{{?(?P<ten>[-+]?\d{{1,4}})\}}?)?
       (?:[ ]?/[ ]?(?P<divisor>{_PLAIN})(?![ ]?/[ ]?\d))?)
    (?!\d|\.\d|,\d{{3}}(?!\d)|[eE][-+]?\d|[ ]?/[ ]?\d|[ ]?\^(?!\{{?\\circ)|[ ]?\*\*[ ]?\d|[²³⁰¹⁴-⁹])
    (?:[ ]?(?P<percent>%|percent\b|per\ cent\b))?
    (?:[ ](?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BOXED = re.compile(r"\\f?boxed\s*(\{|[^\s{}]+)")
_HASHES = re.compile(r"####+[ \t]*([^\n]*)")
# What may stand around the number of a box: a name that it is the value of, and a unit.
_NAMED = re.compile(r"\s*(?:[A-Za-z]\w*\s*(?:=|\\approx|\\to)\s*)?")
_UNIT = re.compile(r"(?:\s+[A-Za-z°/ .]+(?:\^\{?\d\}?)?|[A-Za-z]{2,}|\^?\{?\\circ\}?[CF]?|°[CF]?)?[\s.]*")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([-\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")
_TRANSLATED = str.maketrans(
    {"−": "-", "－": "-", "﹣": "-", "＋": "+", "．": ".", "，": ",", "％": "%", "＄": "$", "⁄": "/", "∕": "/"}
)
_LATEX = (
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\!|\\left|\\right"), ""),
    (re.compile(r"(?<=\d)(?:\\[,; ]|[\u00a0\u202f\u2009])(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
)


class Found(NamedTuple):
    """A number as a text has it: its value, whether it is a percentage, and its place."""

    value: Fraction
    percent: bool
    text: str


class Number(Verifier):
    """1 where the answer's number is that of a reference, else 0. A percentage is what it says (50 for 50%), and beside what is none
    also its share (0.5)."""

    compares = True

    def __init__(self, where: str = "auto", tolerance: float = 0.0):
        self._where, self._tolerance = where, Fraction(tolerance)

    def check(self, task: Task) -> None:
        for reference in task.references:
            if find(reference) is None:
                raise UserError(
                    f"{task.where}: reference {shown(reference)} has no number that answers could be compared with"
                )

    def score(self, answer: str, task: Task) -> Score:
        found = find(answer, self._where)
        if found is None:
            return Score(0.0, "no number")
        for reference in task.references:
            wanted = find(reference)
            if wanted is not None and self._equal(found, wanted):
                return Score(1.0, f"{found.text} is {wanted.text}")
        return Score(0.0, f"{found.text} is not {shown(task.references[0])}")

    def _equal(self, found: Found, wanted: Found) -> bool:
        one = found.percent != wanted.percent
        return any(
            abs(a - b) <= self._tolerance * abs(b) for a in _readings(found, one) for b in _readings(wanted, one)
        )


def _readings(found: Found, one: bool) -> list[Fraction]:
    return [found.value, found.value / 100] if found.percent and one else [found.value]


def find(text: str, where: str = "auto") -> Found | None:
    """The number that a text ends with, None where it has none.

    Args:
      where: "hashes": the first number that follows "####" on its line (Cobbe et al. 2021, GSM8K), under "auto" where the
        line has nothing else but a unit; "boxed": all that the last
        \\boxed{...} holds, unit aside (Hendrycks et al. 2021, MATH); "last": the last number; "auto": the first of these that
        there is. Where there is a box with something else in it, there is no number.
    """
    text = plain(text)
    if where in ("auto", "hashes"):
        for line in _HASHES.finditer(text):
            match = NUMBER.search(line[1])
            found = _read(match) if match else None
            # A line of more than a number is a heading, unless it is asked for.
            if found and (where == "hashes" or _whole(line[1].strip("*:=() \t"))):
                return found
        if where == "hashes":
            return None
    if where in ("auto", "boxed"):
        boxes = list(_BOXED.finditer(text))
        if boxes or where == "boxed":
            return _whole(_content(text, boxes[-1])) if boxes else None
    found = None
    for match in NUMBER.finditer(text):
        found = _read(match) or found
    return found


def plain(text: str) -> str:
    """A text whose numbers are in ASCII: digits of all scripts, minus signs, vulgar fractions, and LaTeX's ways of writing them."""
    text = "".join(map(_ascii, text)) if not text.isascii() else text
    if "\\" in text or not text.isascii() or "{,}" in text:
        for pattern, with_ in _LATEX:
            text = pattern.sub(with_, text)
        text = _FRACTION.sub(_divided, text)
    return text


def _ascii(letter: str) -> str:
    if letter.isascii():
        return letter
    if unicodedata.category(letter) == "Nd":
        return str(unicodedata.decimal(letter))
    if unicodedata.category(letter) == "No" and "⁄" in (apart := unicodedata.normalize("NFKC", letter)):
        return f" {apart.replace('⁄', '/')}"
    return letter.translate(_TRANSLATED)


def _divided(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{match[1] or match[2]}/{match[3] or match[4]}"


def _content(text: str, box: re.Match[str]) -> str:
    """What is between the braces of a box, to the text's end where they are not closed."""
    if box[1] != "{":
        return box[1]
    depth, start = 1, box.end()
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return text[start:]


def _whole(text: str) -> Found | None:
    """The number that a text is, but for a name and a unit; None where there is more."""
    text = text.strip().strip("$").strip() if text.count("$") == 2 else text.strip()
    named = _NAMED.match(text)
    assert named is not None  # it may be empty
    match = NUMBER.match(text, named.end())
    if match is None or not _UNIT.fullmatch(text, match.end()):
        return None
    return _read(match)


def _read(match: re.Match[str]) -> Found | None:
    """The number of a match; None where it is too long, or divided by 0."""
    found = match.groupdict()
    if match.end() - match.start() > _DIGITS:
        return None
    if found["whole"]:
        value, divisor = Fraction(found["over"]), Fraction(found["under"])
        value += int(found["whole"]) * divisor
    else:
        value = _fraction(found["number"]) * Fraction(10) ** int(found["e"] or found["ten"] or 0)
        divisor = _fraction(found["divisor"]) if found["divisor"] else Fraction(1)
    if not divisor:
        return None
    value = value / divisor * _SCALES.get((found["scale"] or "").lower(), 1)
    negative = "-" in (found["sign"] or "") + (found["inner"] or "")
    return Found(-value if negative else value, bool(found["percent"]), match[0].strip())


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))
