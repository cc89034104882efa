"""How often a model's answers are better than others to the same prompts, also where longer answers had no advantage."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import ENDED
from ptft_jax.rewards.at_equal_length import rates
from ptft_jax.rewards.base import Score, Task, Verifier, scored_all

REFERENCE = "reference"  # in the place of a file: the right answers of the data


class Others(NamedTuple):
    """Answers that a model's are compared with.

    Attributes:
      texts: one for each prompt, in their order.
      ended: the share of them that ended by themselves; None = not known.
    """

    texts: tuple[str, ...]
    ended: float | None


def others(against: str, tasks: Sequence[Task]) -> Others:
    """Those that `against` names: `REFERENCE`, or a file of `ptft eval --answers_out`. Raises UserError where they are not answers to the
    same prompts."""
    if against == REFERENCE:
        for task in tasks:
            if not task.references:
                raise UserError(f"--against={against}: {task.where}: there is no right answer")
        return Others(tuple(task.references[0] for task in tasks), None)
    field, rows = f"--against={against}", []
    try:
        lines = pathlib.Path(against).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f"{field}: cannot be read: {e}; expected a file of ptft eval --answers_out, or {REFERENCE!r}"
        ) from e
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as e:
            raise UserError(f"{field}, line {number}: not JSON: {e}") from e
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("prompt", "answer")):
            raise UserError(
                f"{field}, line {number}: expected an object with prompt and answer, as ptft eval --answers_out writes"
            )
        rows.append(row)
    if len(rows) != len(tasks):
        raise UserError(
            f"{field}: it has {len(rows):,} answers, and {len(tasks):,} prompts are asked: have both models asked the same (--data, --split, "
            "--records, --max_new_tokens)"
        )
    for number, (row, task) in enumerate(zip(rows, tasks), 1):
        if row["prompt"] != task.prompt:
            raise UserError(
                f"{field}, line {number}: it answers {row['prompt'][:60]!r}, and {task.where} asks {task.prompt[:60]!r}"
            )
    known = all("reason" in row for row in rows) and bool(rows)
    return Others(
        tuple(row["answer"] for row in rows),
        sum(row["reason"] in ENDED for row in rows) / len(rows) if known else None,
    )


def against(
    theirs: Others, answers: Sequence[Mapping[str, Any]], verifiers: Mapping[str, Verifier], tasks: Sequence[Task]
) -> dict[str, Any]:
    """How a model's answers, as rows with their scores, compare with others to the same tasks, which the same verifiers score. Lengths are in
    characters, as of AlpacaEval."""
    try:
        found = {name: scored_all(name, verifier, theirs.texts, tasks) for name, verifier in verifiers.items()}
    finally:
        for verifier in verifiers.values():
            verifier.close()
    ours = np.array([len(row["answer"]) for row in answers], float)
    lengths = np.array([len(text) for text in theirs.texts], float)
    values: dict[str, Any] = {}
    for name, scores in found.items():
        mine = [row["scores"][name]["value"] for row in answers]
        known = np.array([a is not None and isinstance(b, Score) for a, b in zip(mine, scores)], bool)
        ahead = np.array([a - b.value if ok else 0.0 for a, b, ok in zip(mine, scores, known)])[known]  # type: ignore[union-attr]
        longer = (ours - lengths)[known]
        values[name] = {
            **rates(ahead, longer),
            "unscored": int((~known).sum()),
        }
    ended = {} if theirs.ended is None else {"ended": theirs.ended}
    return {**values, "theirs": {**ended, "characters": float(lengths.mean())}, "characters": float(ours.mean())}
