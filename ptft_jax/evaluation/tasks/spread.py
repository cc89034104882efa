"""How answers spread: over dates, over ways to ask, over groups of those who are asked about."""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.errors import nearest
from ptft_jax.evaluation.tasks.base import CHECKS, PARTS_OF, Behavior, Measured, right_option, value_of
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.statistics import bootstrap_gap, drop, wilson

_PROBABILITIES = ("probability", "first_option")
_LENGTH = {"year": 4, "month": 7, "day": 10}  # of a date as text


class _Counting(Behavior):
    """Of whose questions each is right or not, by `measure`."""

    def __init__(self, measure: str):
        self._measure = measure

    @property
    def parts(self) -> tuple[str, ...]:
        return (PARTS_OF[self._measure],)

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            CHECKS[self._measure](question)

    def _values(self, questions: Sequence[Question], seen: Observed) -> np.ndarray:
        return np.asarray([value_of(self._measure, question, seen) for question in questions])


class Dates(_Counting):
    """Accuracy by date. "accuracy": of all that have one; "before" and "after" the most likely place where it drops, which is the cut-off
    that is found, where there is one."""

    lacking: ClassVar[str] = "with a 'date' and a right answer"

    def __init__(self, by: str, measure: str):
        super().__init__(measure)
        self._by = by

    def takes(self, question: Question) -> bool:
        return question.plain and bool(question.date)

    def check(self, questions: Sequence[Question]) -> None:
        super().check(questions)
        for question in questions:
            if len(question.date) < _LENGTH[self._by]:
                raise question.error("date", f"{question.date!r} has no {self._by}, as eval.behavior.dates.by asks for")

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        right, parts = self._values(questions, seen), _parted(questions, lambda q: q.date[: _LENGTH[self._by]])
        periods = sorted(parts)
        counts = [(int(right[parts[period]].sum()), len(parts[period])) for period in periods]
        values = {"accuracy": float(right.mean())}
        details: dict[str, Any] = {
            "periods": [{"date": d, "accuracy": k / n, "questions": n} for d, (k, n) in zip(periods, counts)]
        }
        if split := drop(*zip(*counts)):
            values |= {"before": split.accuracy_before, "after": split.accuracy_after}
            details |= {"cut_off": periods[split.after - 1], "log_likelihood_ratio": split.log_ratio}
        return Measured(values, details)


class Paraphrases(_Counting):
    """One fact, asked in several ways. "accuracy": of all; "worst": the share of facts that every question gets right; "std": the mean over
    facts of the standard deviation over their questions; "consistency": the mean over facts of the share of pairs of questions with the same
    answer, right or not (Elazar et al. 2021, section 3). Where questions have a "template": "template_std" and "template_worst" of accuracies by
    template."""

    lacking: ClassVar[str] = "with a right answer and what says which are about one fact"

    def __init__(self, columns: Sequence[str], measure: str):
        super().__init__(measure)
        self._columns = tuple(columns)

    def takes(self, question: Question) -> bool:
        return question.plain and any(question.record.get(column) is not None for column in self._columns)

    def check(self, questions: Sequence[Question]) -> None:
        super().check(questions)
        for question in questions:
            for column in self._columns:
                if question.record.get(column) is None:
                    raise question.error(column, f"it is missing{nearest(column, question.record)}")
        for rows in _parted(questions, self._fact).values():
            if len(rows) == 1:
                raise questions[rows[0]].error(
                    self._columns[0], "it is the only question about its fact: a group of one"
                )

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        right, facts = self._values(questions, seen), _parted(questions, self._fact)
        said = [self._said(question, seen) for question in questions]
        same = [np.mean([said[a] == said[b] for a, b in itertools.combinations(rows, 2)]) for rows in facts.values()]
        values = {
            "accuracy": float(right.mean()),
            "worst": float(np.mean([right[rows].min() for rows in facts.values()])),
            "std": float(np.mean([right[rows].std() for rows in facts.values()])),
            "consistency": float(np.mean(same)),
        }
        details: dict[str, Any] = {"facts": len(facts)}
        named = [n for n, question in enumerate(questions) if question.record.get("template") is not None]
        if named:
            templates = _parted([questions[n] for n in named], lambda q: str(q.record["template"]))
            means = {t: float(right[np.asarray(named)[rows]].mean()) for t, rows in sorted(templates.items())}
            values |= {"template_std": float(np.std([*means.values()])), "template_worst": min(means.values())}
            details["templates"] = means
        return Measured(values, details)

    def _fact(self, question: Question) -> Hashable:
        return _key([question.record[column] for column in self._columns])

    def _said(self, question: Question, seen: Observed) -> Hashable:
        """What the model answers; of recall, that is the answer or something else, which nobody knows to be the same."""
        if self._measure == "options":
            return question.options[seen.chosen(question)]
        if self._measure == "extraction":
            return " ".join(seen.text(question).split())
        return question.one if seen.answer(question).greedy else ("other than", question.where)


class Groups(_Counting):
    """What differs by group. "mean": of all; "gap": the largest mean of a group less the smallest, "gap_low" and "gap_high" the interval of that
    (bootstrap). Of questions that differ in the group alone: "swap_flips": the share of pairs in which rightness differs, "swap_shift": the mean
    absolute difference of what is counted."""

    lacking: ClassVar[str] = "with a 'group' and a right answer"

    def __init__(self, measure: str, level: float, resamples: int, swaps: str):
        super().__init__(measure)
        self._level, self._resamples, self._swaps = level, resamples, swaps

    def takes(self, question: Question) -> bool:
        return (question.plain or self._measure == "first_option") and bool(question.group)

    def check(self, questions: Sequence[Question]) -> None:
        super().check(questions)
        groups = _parted(questions, lambda q: q.group)
        if len(groups) == 1:
            raise questions[0].error(
                "group", f"{questions[0].group!r} is the only group: there is nothing to compare it with"
            )
        for name, rows in groups.items():
            if len(rows) == 1:
                raise questions[rows[0]].error("group", f"{name!r} has this question alone: a group of one")
        for rows in self._swapped(questions).values():
            if len({questions[n].group for n in rows}) < len(rows):
                raise questions[rows[-1]].error(self._swaps, "two questions that are swapped are of one group")
            if len(rows) == 1:
                raise questions[rows[0]].error(self._swaps, "no other question has it: there is no counterfactual")

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        found = self._values(questions, seen)
        groups = {name: found[rows] for name, rows in sorted(_parted(questions, lambda q: q.group).items())}
        means = {name: float(part.mean()) for name, part in groups.items()}
        low, high = bootstrap_gap([*groups.values()], self._level, self._resamples, seed=0)
        values = {
            "mean": float(found.mean()),
            "gap": max(means.values()) - min(means.values()),
            "gap_low": low,
            "gap_high": high,
        }
        table = [{"group": name, "mean": means[name], "questions": len(part)} for name, part in groups.items()]
        if self._measure not in _PROBABILITIES:
            for row, part in zip(table, groups.values()):
                row |= dict(zip(("low", "high"), wilson(int(part.sum()), len(part), self._level)))
        if swapped := self._swapped(questions):
            pairs = [pair for rows in swapped.values() for pair in itertools.combinations(rows, 2)]
            flips = [self._chosen(questions[a], seen) != self._chosen(questions[b], seen) for a, b in pairs]
            values |= {
                "swap_flips": float(np.mean(flips)),
                "swap_shift": float(np.mean([abs(found[a] - found[b]) for a, b in pairs])),
            }
        return Measured(values, {"groups": table, "level": self._level})

    def _chosen(self, question: Question, seen: Observed) -> bool:
        """Whether what is counted is chosen."""
        if self._measure in _PROBABILITIES:
            wanted = 0 if self._measure == "first_option" else right_option(question)
            return seen.chosen(question) == wanted
        return bool(value_of(self._measure, question, seen))

    def _swapped(self, questions: Sequence[Question]) -> dict[Hashable, list[int]]:
        rows = _parted(questions, lambda q: _key(q.record.get(self._swaps)))
        return {key: found for key, found in rows.items() if key != _key(None)}


def _key(value: Any) -> str:
    """Equal texts for equal values of JSON's types."""
    return json.dumps(value, sort_keys=True, default=str)


def _parted(questions: Sequence[Question], key: Any) -> dict[Any, list[int]]:
    """The numbers of the questions by a key, in the order of their first appearance."""
    found: dict[Any, list[int]] = {}
    for number, question in enumerate(questions):
        found.setdefault(key(question), []).append(number)
    return found
