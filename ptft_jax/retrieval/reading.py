"""Reading practice: which passages stand before a question, and what is to be said after them.

In the manner of RAFT (Zhang et al. 2024): passages that an index finds, others that only distract, what is outdated, and questions that no passage
answers. Which passages tell an answer, a record says in `gold` (their ids); where no record says so, those do that have one of its answers
as whole words (Chen et al. 2017, "DrQA"). Likewise `stale` names those that tell what was true before.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.formats.messages import is_messages
from ptft_jax.data.records.base import Record
from ptft_jax.errors import UserError, nearest
from ptft_jax.retrieval.index import Index
from ptft_jax.retrieval.passages import Passage

MARGIN = 8  # passages that are looked up beyond those that are asked for, in place of those that are left out
ADDED = ("asked", "passages", "hit", "rank")  # columns that records get
_PROMPTS = ("prompt", "instruction", "messages")  # what a column is, of those that may hold a question
_ANSWERS = ("answer", "completion", "response", "output")
_PLAIN = ("question", "prompt")
Columns = Mapping[str, str]


class Told(NamedTuple):
    """What a record says of the passages that answer it.

    Attributes:
      gold, stale: numbers of passages.
      named: whether it names them; else `answers` tell which passages are gold.
    """

    gold: tuple[int, ...]
    stale: tuple[int, ...]
    named: bool
    answers: tuple[str, ...]


def asked_of(columns: Columns) -> str:
    """The column that holds the question, by what columns are; "" = whichever of the usual ones a record has."""
    return next((columns[what] for what in _PROMPTS if what in columns), "")


class Practice:
    """An index, and how its passages are put before questions.

    Attributes:
      depth: how many passages are looked up for a question.
      before: what stands before a question, for messages; "" = nothing.
      fingerprint: another one where passages or how they are put are others.
    """

    def __init__(self, index: Index, settings: Any):
        """`settings`: a `RetrieveOptions`. Raises UserError for options that do not go together."""
        self.index, self._s = index, settings
        s, count = settings, len(index.passages)
        if s.k + s.distractors > count:
            what = f"k={s.k}" + (f" and distractors={s.distractors}" if s.distractors else "")
            raise UserError(f"{what}: the index {index.folder} has {count:,} passages: expected at most so many")
        if s.k < (s.right == "always") + (s.outdated == "always"):
            raise UserError(f"k={s.k}: right=always and outdated=always need room for one of each: expected 2 or more")
        if s.right == "never" and (s.no_answer or s.cite):
            name = "no_answer" if s.no_answer else "cite"
            raise UserError(f"{name}: with right=never no question has a passage that answers it: leave it out")
        try:
            s.passage.format(n=1, id="", text="")
        except (LookupError, ValueError) as e:
            raise UserError(
                f"passage={s.passage!r}: expected a text with {{text}}, and maybe {{n}} and {{id}}: {e}"
            ) from e
        self.depth = min(count, s.k + (MARGIN if s.no_answer or "never" in (s.right, s.outdated) else 0))
        self.before = "" if s.learn == "passage" else f"behind at most {s.k + s.distractors} passages of {index.folder}"
        self.described = f"at most {s.k + s.distractors} passages each of {index.described}"
        if s.learn == "passage":
            self.described = f"with the passage that answers, of {index.described}"
        shown = {name: value for name, value in vars(settings).items() if name != "retrieve"}
        self.fingerprint = cache.digest("practice-1", index.fingerprint, repr(sorted(shown.items())))

    def query(self, record: Record, where: str, columns: Columns) -> str:
        """What a record asks."""
        return _asked(record, where, columns)[0]

    def read(
        self, record: Record, where: str, key: np.ndarray, columns: Columns, found: Callable[[], np.ndarray]
    ) -> Record:
        """A record with passages before its question, and columns that say which.

        Args:
          key: uint64 [2], of the record, which decides what is random.
          columns: what a column is -> its name, as the source is read; {} where it is read as nothing.
          found: gives what the index finds: (passage, score) [depth], the best first; passage -1 = none.

        Raises:
          UserError: which field of which record, and what is wrong.
        """
        if taken := [name for name in ADDED if record.get(name) is not None]:
            raise UserError(
                f"{where}: field {taken[0]!r}: it is there already, and would say which passages were looked up"
            )
        question, put = _asked(record, where, columns)
        told = self._told(record, where, columns)
        if self._s.learn == "passage":
            return self._learned(record, where, told, columns)
        random = np.random.Generator(np.random.Philox(key=key))
        blind = random.random() < self._s.no_answer
        chosen = self._chosen(told, found(), random, blind, where)
        rows = [self._shown(n, number, score, told) for n, (number, score) in enumerate(chosen, 1)]
        texts = [
            self._s.passage.format(n=row["n"], id=row["id"], text=self.index.passages[number].text.strip())
            for row, (number, _) in zip(rows, chosen)
        ]
        hits = [row["n"] for row in rows if row["gold"]]
        record = put("".join([*texts, question]))
        ranks = [n for n, one in enumerate(found()["passage"].tolist(), 1) if one >= 0 and self._is_gold(one, told)]
        record |= {"asked": question, "passages": rows, "hit": bool(hits), "rank": ranks[0] if ranks else 0}
        silent = blind or (self._s.misses == "unknown" and not hits)
        return record | self._answered(record, where, columns, hits, silent)

    def _shown(self, n: int, number: int, score: float, told: Told) -> dict[str, Any]:
        one: Passage = self.index.passages[number]
        gold, stale = self._is_gold(number, told), number in told.stale
        return {"n": n, "id": one.id, "where": one.where, "score": score, "gold": gold, "stale": stale}

    def _told(self, record: Record, where: str, columns: Columns) -> Told:
        gold, stale = (self._named(record, where, name) for name in ("gold", "stale"))
        found = [record.get("answer"), *(record.get("answers") or ())]
        found.append(record.get(_answer_column(record, columns)))
        answers = tuple(dict.fromkeys(one.strip() for one in found if isinstance(one, str) and one.strip()))
        named = record.get("gold") is not None
        if not named and not answers and self._s.learn == "answer" and (self._s.no_answer or self._s.right != "found"):
            raise UserError(
                f"{where}: field 'gold': it is missing, and so is an answer: which passages answer is not known"
            )
        said = tuple(number for number in gold if self._has(number, answers))
        # Of a document that was cut, or told several times, the parts that have the answer are the last: they are put there first.
        return Told((*(n for n in gold if n not in said), *said), stale, named, answers)

    def _named(self, record: Record, where: str, name: str) -> tuple[int, ...]:
        value = record.get(name)
        ids = [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value or ()
        if not isinstance(ids, (list, tuple)) or not all(isinstance(one, (str, int)) for one in ids):
            raise UserError(f"{where}: field {name!r}: expected ids of passages, got {value!r}")
        numbers = []
        for one in map(str, ids):
            known = self.index.passages.numbers(one)
            if not known:
                first = self.index.passages[0].id
                raise UserError(
                    f"{where}: field {name!r}: {one!r} is no passage of {self.index.folder}, whose ids are like {first!r}: it is an "
                    f"index of another corpus ({self.index.facts['corpus']})"
                )
            numbers += known
        return tuple(numbers)

    def _is_gold(self, number: int, told: Told) -> bool:
        if told.named:
            return number in told.gold
        return self._has(number, told.answers)

    def _has(self, number: int, answers: Sequence[str]) -> bool:
        text = self.index.passages[number].text
        return any(_says(answer).search(text) for answer in answers)

    def _chosen(
        self, told: Told, found: np.ndarray, random: np.random.Generator, blind: bool, where: str
    ) -> list[tuple[int, float]]:
        """(number, score) of the passages before a question, in their order."""
        s = self._s

        def left_out(number: int) -> bool:
            gold = (blind or s.right == "never") and self._is_gold(number, told)
            return gold or (s.outdated == "never" and number in told.stale)

        scores = {int(one["passage"]): float(one["score"]) for one in found if one["passage"] >= 0}
        chosen = [number for number in scores if not left_out(number)][: s.k]
        if s.right == "always" and not blind:
            if not told.named:
                raise UserError(f"{where}: field 'gold': it is missing: right=always needs the passage that answers")
            _include(chosen, told.gold, s.k, told.stale)
        if s.outdated == "always":
            _include(chosen, told.stale, s.k, told.gold)
        for _ in range(s.distractors):
            chosen.append(self._distractor(chosen, told, random, where))
        if s.order == "best_last":
            chosen.reverse()
        elif s.order == "shuffled":
            chosen = [chosen[n] for n in random.permutation(len(chosen))]
        return [(number, scores.get(number, 0.0)) for number in chosen]

    def _distractor(self, chosen: Sequence[int], told: Told, random: np.random.Generator, where: str) -> int:
        count = len(self.index.passages)
        for _ in range(1000):
            number = int(random.integers(count))
            if number not in chosen and number not in told.stale and not self._is_gold(number, told):
                return number
        raise UserError(
            f"{where}: distractors={self._s.distractors}: too few passages of {self.index.folder} ({count:,}) do not answer the question"
        )

    def _learned(self, record: Record, where: str, told: Told, columns: Columns) -> Record:
        """The passage that answers, in the place of the answer."""
        if not told.gold:
            raise UserError(
                f"{where}: field 'gold': it names no passage, and learn=passage puts it in the place of the answer"
            )
        column, lead, _ = _said(record, where, columns)
        return {**record, column: lead + self.index.passages[told.gold[-1]].text.strip()}

    def _answered(
        self, record: Record, where: str, columns: Columns, hits: Sequence[int], silent: bool
    ) -> dict[str, Any]:
        """What is to be said, where that is another than the record has."""
        s, others = self._s, {"options": None, "shares": None}
        if not silent and not (s.cite and hits):
            return {}
        right = [s.unknown] if silent else [f"{one} [{hits[0]}]" for one in record.get("answers") or ()]
        found: dict[str, Any] = {name: value for name, value in others.items() if name in record}
        found |= {"answers": right} if "answers" in record else {}
        if columns or "answers" not in record or record.get(_answer_column(record, columns)) is not None:
            column, lead, said = _said(record, where, columns)
            found[column] = lead + (s.unknown if silent else f"{said} [{hits[0]}]")
        return found | ({"answerable": False} if silent else {})


def _include(chosen: list[int], wanted: Sequence[int], k: int, kept: Sequence[int]) -> None:
    """Puts the last of `wanted` among the chosen, unless one of them is there: in the place of the last that is none of `kept`."""
    if not wanted or any(number in chosen for number in wanted):
        return
    if len(chosen) == k:
        chosen.pop(next((n for n in reversed(range(k)) if chosen[n] not in kept), k - 1))
    chosen.append(wanted[-1])


@functools.lru_cache(maxsize=1 << 12)
def _says(answer: str) -> re.Pattern[str]:
    """Finds an answer as whole words, in whatever case."""
    return re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)


def _answer_column(record: Record, columns: Columns) -> str:
    """The column of what is to be said; "" where there is none."""
    return next(
        (columns[what] for what in ("completion", "output") if what in columns),
        next((name for name in _ANSWERS if not columns and name in record), ""),
    )


def _said(record: Record, where: str, columns: Columns) -> tuple[str, str, str]:
    """(column, white space before, text) of what is to be said. Raises UserError where that is no text of its own."""
    column = _answer_column(record, columns)
    value = record.get(column) if column else None
    if not isinstance(value, str):
        raise UserError(
            f"{where}: field {column or 'answer'!r}: expected the answer as a text of its own, which another is put in the place of; of "
            "conversations neither no_answer, misses, cite nor learn can be chosen"
        )
    text = value.lstrip()
    return column, value[: len(value) - len(text)], text


def _asked(record: Record, where: str, columns: Columns) -> tuple[str, Callable[[str], Record]]:
    """What a record asks, and a function that gives the record with another question in its place. Raises UserError."""
    name = asked_of(columns) or next((one for one in _PLAIN if record.get(one) is not None), "")
    value = record.get(name) if name else None
    if isinstance(value, str) and value.strip():
        return value, lambda text: {**record, name: text}
    if is_messages(value):
        at = next((n for n in reversed(range(len(value))) if value[n].get("role") == "user"), -1)
        said = value[at].get("content") if at >= 0 else None
        if isinstance(said, str) and said.strip():
            return said, lambda text: {**record, name: [*value[:at], {**value[at], "content": text}, *value[at + 1 :]]}
    near = next(filter(None, (nearest(one, _PLAIN) for one in record)), "")
    raise UserError(
        f"{where}: field {name or 'question'!r}: expected a question that passages can be looked up for{near}"
    )
