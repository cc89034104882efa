"""What a model makes of passages that stand before its questions: whether it follows them, or what it remembers; and which it cites."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.evaluation.tasks.base import Behavior, Measured, some_answer
from ptft_jax.evaluation.tasks.certainty import says
from ptft_jax.evaluation.tasks.observed import Observed
from ptft_jax.evaluation.tasks.question import Question

_CITED = re.compile(r"\s*\[(\d+)\]")
_SHOWN = 20  # questions that a report has with their passages


class Retrieval(Behavior):
    """Questions that were read with passages (`?retrieve=INDEX`), by what each run writes, citations apart.

    "recall": the share of those that can be answered with a right passage before them; "recall_at_1": whose best passage is right.
    "accuracy" of these, "accuracy_hit" with a right passage, "accuracy_miss" without. "abstained": of these; "abstained_unanswerable": of
    those that no passage answers. "conflicts": the share of the hits to which the run says something wrong when it is asked without passages;
    "follows_context": of these, the share answered as the passages say, "follows_memory": as without them (Longpre et al. 2021, "Entity-based
    knowledge conflicts"). "stale": of questions with an outdated passage, the share answered as that says. "cited": the share of answers
    that name a passage; "cited_right": of these, the share that names a right one. What nothing is counted of is left out.
    """

    needs: ClassVar[tuple[str, ...]] = ("text",)
    lacking: ClassVar[str] = "with passages: read them by ?retrieve=INDEX"

    def __init__(self, phrases: Sequence[str], memory: bool):
        self._phrases, self._memory = phrases, memory

    def takes(self, question: Question) -> bool:
        return isinstance(question.record.get("passages"), list) and not question.shares and not question.good

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            some_answer(question)

    def also(self, question: Question) -> Sequence[Question]:
        """The same question without passages."""
        return [_bare(question)] if self._memory and question.record["hit"] else []

    def measured(self, questions: Sequence[Question], seen: Observed) -> Measured:
        rows = [self._row(question, seen) for question in questions]
        answerable = [row for row in rows if row["answerable"]]
        hits, stale = [row for row in answerable if row["hit"]], [row for row in rows if row["stale"] is not None]
        conflicts = [row for row in hits if row["memory"] is not None and not row["remembered"]]
        cited = [row for row in rows if row["cites"]]
        shares = {
            "recall": [row["hit"] for row in answerable],
            "recall_at_1": [row["rank"] == 1 for row in answerable],
            "accuracy": [row["right"] for row in answerable],
            "accuracy_hit": [row["right"] for row in hits],
            "accuracy_miss": [row["right"] for row in answerable if not row["hit"]],
            "abstained": [row["silent"] for row in answerable],
            "abstained_unanswerable": [row["silent"] for row in rows if not row["answerable"]],
            "conflicts": [not row["remembered"] for row in hits if row["memory"] is not None],
            "follows_context": [row["right"] for row in conflicts],
            "follows_memory": [row["same"] for row in conflicts],
            "stale": [row["stale"] for row in stale],
            "cited": [bool(row["cites"]) for row in rows],
            "cited_right": [any(one["gold"] for one in row["cites"]) for row in cited],
        }
        values = {name: float(np.mean(found)) for name, found in shares.items() if found}
        counts = {name: len(found) for name, found in shares.items()}
        return Measured(values, {"counts": counts, "shown": [_shown(row) for row in rows[:_SHOWN]]})

    def _row(self, question: Question, seen: Observed) -> dict[str, Any]:
        """All that is counted of a question."""
        record, said = question.record, without_citations(seen.text(question))
        memory = next((without_citations(seen.text(bare)) for bare in self.also(question)), None)
        outdated = record.get("stale_answers") or ()
        return {
            "question": question,
            "text": seen.text(question),
            "answerable": record.get("answerable") is not False,
            "hit": record["hit"],
            "rank": record["rank"],
            "right": seen.says(said, question.answers),
            "silent": says(said, self._phrases),
            "memory": memory,
            "remembered": memory is not None and seen.says(memory, question.answers),
            "same": memory is not None and seen.says(said, [memory]) if memory else False,
            "stale": seen.says(said, outdated)
            if outdated and any(one["stale"] for one in record["passages"])
            else None,
            "cites": cited_by(seen.text(question), record["passages"]),
        }


def _bare(question: Question) -> Question:
    return dataclasses.replace(question, where=f"{question.where}, without them", prompt=question.record["asked"])


def without_citations(text: str) -> str:
    """A text without "[1]" and its like, and the white space before them."""
    return _CITED.sub("", text)


def cited_by(text: str, passages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the passages before a question those that an answer names, by their numbers."""
    named = {int(number) for number in _CITED.findall(text)}
    return [one for one in passages if one["n"] in named]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question for a report, with where its passages are to be found."""
    question = row["question"]
    return {
        "where": question.where,
        "asked": question.record["asked"],
        "answers": list(question.answers),
        "answer": row["text"],
        "right": row["right"],
        "without passages": row["memory"],
        "passages": question.record["passages"],
        "cites": [one["n"] for one in row["cites"]],
    }
