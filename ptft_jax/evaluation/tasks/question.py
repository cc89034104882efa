"""Questions whose answers are known, as records of a data source have them: with options, groups, dates."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError, nearest

PROMPTS = ("question", "prompt")
SHARES = ("shares", "share", "weights", "weight")
KINDS = ("known", "unknown", "contradicted", "harmful", "benign")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
      where: its place: "questions.jsonl, line 3".
      record: column -> value.
      prompt: what is asked.
      answers: those that are right, any of which counts; () where there is none.
      one: the one that is learned, where the record names it or has one alone; else "".
      options: different texts; () = it is open.
      right: the number of the right option; None where no single one is.
      shares: of the options, which add up to 1; () = none.
      group, date: "" = none; dates as "2024", "2024-05" or "2024-05-31".
      lead: white space that an answer, or an option in its place, has before it in the record.
      kind: "known", "unknown", "contradicted", "harmful", "benign" or "".
      good, bad: of a minimal pair, which has nothing else.
    """

    where: str
    record: Mapping[str, Any]
    prompt: str = ""
    answers: tuple[str, ...] = ()
    one: str = ""
    options: tuple[str, ...] = ()
    right: int | None = None
    shares: tuple[float, ...] = ()
    group: str = ""
    date: str = ""
    lead: str = ""
    kind: str = ""
    good: str = ""
    bad: str = ""

    def error(self, field: str, problem: str) -> UserError:
        """The error that says which field of which record has the problem."""
        return UserError(f"{self.where}: field {field!r}: {problem}")

    @property
    def plain(self) -> bool:
        """Whether it has a right answer that a model can be expected to know."""
        return not self.good and not self.shares and self.kind not in ("unknown", "contradicted", "harmful", "benign")


def read(record: Mapping[str, Any], where: str) -> Question:
    """A record as a question. Raises UserError that names the place and the field."""
    bare = Question(where, record)
    if record.get("good") is not None or record.get("bad") is not None:  # tables have all columns in each row
        good, bad = (_text(bare, name) for name in ("good", "bad"))
        if good == bad:
            raise bare.error("bad", "it is what 'good' is")
        return dataclasses.replace(bare, good=good, bad=bad)
    there = [name for name in PROMPTS if record.get(name) is not None]
    if not there:
        raise bare.error("question", f"it is missing{_near(record)}")
    if len(there) > 1:
        raise bare.error("prompt", "there is a 'question', too: give one of them")
    options = _options(bare)
    answers, one, right = _answers(bare, options)
    shares = _shares(bare, options)
    return dataclasses.replace(
        bare,
        prompt=_text(bare, there[0]),
        answers=answers,
        one=one,
        options=options,
        right=right,
        shares=shares,
        group=_name(bare, "group"),
        date=_date(bare),
        lead=_lead(record),
        kind="contradicted" if shares else _kind(bare),
    )


def _lead(record: Mapping[str, Any]) -> str:
    for name in ("answer", "completion", "answers", "options"):
        value = record.get(name)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, str):
            return first[: len(first) - len(first.lstrip())]
    return ""


def _near(record: Mapping[str, Any]) -> str:
    return next(filter(None, (nearest(name, PROMPTS) for name in record)), "")


def _text(question: Question, name: str) -> str:
    value = question.record.get(name)
    if value is None:
        raise question.error(name, "it is missing")
    if not isinstance(value, str) or not value.strip():
        raise question.error(name, f"expected a text that is not empty, got {value!r}")
    return value


def _name(question: Question, name: str) -> str:
    """A text or a number as a text; "" = there is none."""
    value = question.record.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise question.error(name, f"expected a text, got {value!r}")
    return str(value)


def _said(question: Question, name: str, value: Any) -> str:
    """An answer or option as a text without white space around."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise question.error(name, f"expected texts that are not empty, got {value!r}")
    return str(value).strip()


def _list(question: Question, name: str) -> tuple[str, ...]:
    value = question.record.get(name)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise question.error(name, f"expected a list of texts, got {value!r}")
    found = tuple(_said(question, name, one) for one in value)
    if twice := [one for one in found if found.count(one) > 1]:
        raise question.error(name, f"{twice[0]!r} is there twice")
    return found


def _options(question: Question) -> tuple[str, ...]:
    found = _list(question, "options")
    if len(found) == 1:
        raise question.error("options", f"{found[0]!r} is the only one")
    return found


def _answers(question: Question, options: Sequence[str]) -> tuple[tuple[str, ...], str, int | None]:
    """All right answers, the one that is named or alone, and the number of the right option."""
    answers, given = _list(question, "answers"), question.record.get("answer")
    one = ""
    if isinstance(given, int) and not isinstance(given, bool) and options:
        if not 0 <= given < len(options):
            raise question.error("answer", f"{given}: expected the number of an option, 0 to {len(options) - 1}")
        one = options[given]
    elif isinstance(given, (list, tuple)):
        raise question.error("answer", "expected one text, got a list: several that are right are 'answers'")
    elif given is not None:
        one = _said(question, "answer", given)
    if one and answers and one not in answers:
        raise question.error("answer", f"{one!r} is none of the answers {', '.join(map(repr, answers))}")
    answers = answers or ((one,) if one else ())
    one = one or (answers[0] if len(answers) == 1 else "")
    right = [n for n, option in enumerate(options) if option in ((one,) if one else answers)]
    if options and answers and not right:
        raise question.error(
            "options", f"none of them is right: {', '.join(map(repr, answers))}{nearest(answers[0], options)}"
        )
    return answers, one, right[0] if len(right) == 1 else None


def _shares(question: Question, options: Sequence[str]) -> tuple[float, ...]:
    names = [name for name in SHARES if isinstance(question.record.get(name), (list, tuple))]
    if not names:
        return ()
    name = names[0]
    values = question.record[name]
    if len(values) != len(options):
        raise question.error(name, f"{len(values)} for {len(options)} options: give one for each of 'options'")
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and v >= 0 for v in values)
    if not good or not sum(values):
        raise question.error(name, f"expected numbers of 0 or more that are not all 0, got {list(values)}")
    return tuple(v / sum(values) for v in values)


def _date(question: Question) -> str:
    value = question.record.get("date")
    if value is None:
        return ""
    if isinstance(value, (datetime.date, datetime.datetime)):
        value = value.isoformat()
    text = str(value).strip()
    found = re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ].*)?)?)?", text)
    try:
        if found is None or isinstance(value, bool):
            raise ValueError("not of that form")
        datetime.datetime.fromisoformat(text if len(text) > 10 else f"{found[1]}-{found[2] or '01'}-{found[3] or '01'}")
    except ValueError as e:
        raise question.error("date", f"{value!r} is no date ({e}): expected 2024, 2024-05 or 2024-05-31") from e
    return text[:10]


def _kind(question: Question) -> str:
    """What sort of question it is; of others than `KINDS`, nothing is said by it."""
    kind = question.record.get("kind")
    kind = kind if isinstance(kind, str) and kind in KINDS else ""
    for name, (yes, no) in {"harmful": ("harmful", "benign"), "known": ("known", "unknown")}.items():
        value = question.record.get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise question.error(name, f"expected true or false, got {value!r}")
        said = yes if value else no
        if kind in (yes, no) and kind != said:
            raise question.error("kind", f"{kind!r}, and {name!r} is {str(value).lower()}")
        kind = kind if kind and said == "known" else said
    return kind
