"""What is said of answers that a model wrote, as the rows of a rollout's file have it, before anything is learned of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.evaluation.answers import row_of
from ptft_jax.evaluation.tool_turns import Talk, Turn, told
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.ensemble import agreeing, members_of, spread
from ptft_jax.tools.base import Result
from ptft_jax.training import rollout_files
from ptft_jax.training.answer_rows import sampled
from ptft_jax.training.prompts import FIELD

Row = dict[str, Any]  # of an answer, as its file has it


def row_of_written(asked: tuple[Task, list[int]], talk: Talk, tools: bool = False) -> Row:
    """An answer, as people and `Rollouts` read it. It is learned with what ended it, and never from its text."""
    task, prompt = asked
    assert talk.drawn is not None and talk.sampled == len(talk.drawn), "a log-probability for each token"
    return {
        **row_of(task, talk.answer._replace(tokens=talk.sampled), {}),
        **(told(talk) if tools else {}),
        "prompt_tokens": len(prompt),
        "ids": [*prompt, *talk.ids],
        **({"given": [[len(prompt) + n for n in span] for span in talk.given]} if talk.given else {}),
        "log_probs": talk.drawn,
        **({} if talk.support is None else {"support": rollout_files.packed(talk.support)}),
    }


def add_up(rows: Sequence[Row], most: int, buffer: int) -> None:
    """Says of answers with scores what they are worth: "reward", the sum of their scores, or that they are "unscored"; and the "penalty" of
    those that use the last `buffer` of `most` tokens."""
    for row in rows:
        values = [score["value"] for score in row["scores"].values()]
        row["unscored"] = None in values
        row["reward"] = 0.0 if row["unscored"] else sum(values)
        row["penalty"] = _overlong(row["tokens"], most, buffer)


def mismatch(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean over the tokens of answers of what `Rollouts` says of each; of answers of earlier versions it is not known, and 0."""
    tokens = [sampled(row) for row in rows]
    return float(np.average([row.get("mismatch", 0.0) for row in rows], weights=tokens)) if sum(tokens) else 0.0


def count_calls(rows: Sequence[Row]) -> None:
    """Says of answers how they called tools: `CALLS`."""
    for row in rows:
        results = [result for turn in row["turns"] for result in turn["results"]]
        row["calls"] = len(results)
        row["failed_calls"], row["cut_results"] = (
            sum(result[name] for result in results) for name in ("failed", "cut")
        )


def turns_of(row: Row) -> list[Turn]:
    """The calls of an answer, as its file has them."""
    return [
        Turn(turn["text"], turn["written"], [Result(**result) for result in turn["results"]])
        for turn in row.get("turns", ())
    ]


def compare_members(rows: Sequence[Row], samples: int) -> None:
    """Says of answers, `samples` to a prompt, how far the reward models are apart of each, and of the answers to a prompt, beside the first,
    how often they prefer the same one: `MEMBERS`."""
    for first in range(0, len(rows), samples):
        group = rows[first : first + samples]
        members = [() if row["unscored"] else members_of(row["scores"]) for row in group]
        for row, one in zip(group, members):
            row |= {"spread": spread([one]) or 0.0, "agreeing": 0, "compared": 0}
        group[0]["agreeing"], group[0]["compared"] = agreeing(members)


def refuse_buffer(buffer: int, most: int) -> None:
    """Raises UserError where more tokens would cost reward than an answer may have."""
    if buffer > most:
        raise UserError(f"config.{FIELD}.overlong_buffer = {buffer}: expected at most {FIELD}.max_new_tokens = {most}")


def _overlong(tokens: int, most: int, buffer: int) -> float:
    """What an answer of so many tokens costs (Yu et al. 2025, DAPO, equation 13)."""
    return min(max(tokens - (most - buffer), 0) / buffer, 1.0) if buffer else 0.0
