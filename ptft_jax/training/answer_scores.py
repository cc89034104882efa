"""The scores of answers that are learned from: each answer is scored once, also in a run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.evaluation.answers import shown
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier, scored_all
from ptft_jax.training.answer_facts import Row


def scores(
    verifiers: Mapping[str, Verifier],
    tasks: Sequence[Task],
    rows: Sequence[Row],
    before: Sequence[Row],
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    """Of each answer {verifier: its score}.

    Args:
      before: answers of a launch that was killed after it had scored them: where they are the same, so are the scores, as a verifier may
        score them otherwise now.
      check: as of `scored_all`.

    Raises:
      UserError: as of `scored_all`; no answer has a score, unless others have.
    """
    again = rows[0].get("again", 0)
    before = [row for row in before if row.get("again", 0) == again]
    if [row["ids"] for row in before] == [row["ids"] for row in rows]:
        return [row["scores"] for row in before]
    texts = [row["answer"] for row in rows]
    try:
        found = {name: scored_all(name, verifier, texts, tasks, check) for name, verifier in verifiers.items()}
        if not again and not any(all(isinstance(one, Score) for one in each) for each in zip(*found.values())):
            name, lost = next((name, s) for name, each in found.items() for s in each if isinstance(s, Unscored))
            raise UserError(
                f"verifier {name!r}: none of the {len(texts)} answers has a score, the first for this reason: {lost.reason}"
            )
        return [{name: shown(each[n]) for name, each in found.items()} for n in range(len(rows))]
    finally:
        for verifier in verifiers.values():
            verifier.close()
