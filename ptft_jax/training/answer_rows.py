"""Arrays of rows that hold answers after their prompts: any, and such as the rows of a rollout's file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.rows import Rows
from ptft_jax.objectives.policy import FACTS
from ptft_jax.training import rollout_files

# What a model with a value head learns from: of each answer, and of each of its tokens.
_VALUED = ("explained", "varied"), ("advantages", "values", "returns")


@dataclasses.dataclass(frozen=True)
class AnswerRows:
    """What is in a batch, as the `loss_of` of its objective has it (`ptft_jax.objectives.policy`, `ptft_jax.objectives.ppo`).

    Attributes:
      length: positions of a row.
      valued: tokens have advantages and values of their own.
      held: rows say how far they are from a reference.
      support: bytes per token of what could be sampled; 0 = all tokens could.
      facts: what is said of each answer beside `FACTS`.
    """

    length: int
    valued: bool = False
    held: bool = False
    support: int = 0
    facts: tuple[str, ...] = ()

    def empty(self, count: int) -> Rows:
        """A batch of so many answers that has none."""
        each, every = _VALUED if self.valued else (("advantages",), ())
        out = self._untold(count)
        out |= {name: np.zeros(count, np.float32) for name in (*each, *self._named)}
        return out | {name: np.zeros((count, self.length), np.float32) for name in every}

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """The batch of answers."""
        out = self.empty(len(rows)) | self.tokens(rows)
        each, every = _VALUED if self.valued else ((), ())
        for n, row in enumerate(rows):
            if not self.valued:
                out["advantages"][n] = row["advantage"]
            for name in (*each, *self._named):
                out[name][n] = row[name]
            for name in every:
                out[name][n, answer_of(row)] = row[name]
        return out

    def tokens(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """The batch of answers, but for what follows from scores."""
        out = self._untold(len(rows))
        for n, row in enumerate(rows):
            here = answer_of(row)
            put_answer(out, n, row)
            out["sampled"][n, here] = row["log_probs"]
            if self.support:
                out["support"][n, here] = rollout_files.unpacked(row["support"], len(row["log_probs"]))
        return out

    @property
    def _named(self) -> tuple[str, ...]:
        return ("counts", *FACTS, *self.facts, *(("kl",) if self.held else ()))

    def _untold(self, count: int) -> Rows:
        shape = (count, self.length)
        out = blank(*shape) | {"sampled": np.zeros(shape, np.float32)}
        return out | ({"support": np.zeros((*shape, self.support), np.uint8)} if self.support else {})


def answer_of(row: Mapping[str, Any]) -> slice | np.ndarray:
    """Where in a row of a batch the tokens of an answer are targets, those that were sampled: int [tokens], where tools said some between
    them."""
    first, stop = row["prompt_tokens"] - 1, len(row["ids"]) - 1
    if not row.get("given"):
        return slice(first, stop)
    sampled = np.ones(stop, bool)
    for start, end in row["given"]:
        sampled[start - 1 : end - 1] = False
    return first + np.flatnonzero(sampled[first:])


def sampled(row: Mapping[str, Any]) -> int:
    """How many tokens of an answer were, with what ended it."""
    return len(row["ids"]) - row["prompt_tokens"] - sum(end - start for start, end in row.get("given", ()))


def blank(count: int, length: int) -> Rows:
    """A batch of so many rows that hold nothing: inputs, targets, positions and segments int32 [count, length], weights float32."""
    shape = (count, length)
    names = ("inputs", "targets", "positions", "segments")
    return {**{name: np.zeros(shape, np.int32) for name in names}, "weights": np.zeros(shape, np.float32)}


def put(out: Rows, n: int, ids: Sequence[int], before: int, at: int = 0, segment: int = 1) -> int:
    """Lays a text into row `n` from the position `at` on, as a segment of its own of which what follows `before` tokens is learned. Gives
    the position after it."""
    stop = at + len(ids) - 1
    here = slice(at, stop)
    out["inputs"][n, here], out["targets"][n, here] = ids[:-1], ids[1:]
    out["positions"][n, here], out["segments"][n, here] = np.arange(stop - at), segment
    out["weights"][n, at + before - 1 : stop] = 1
    return stop


def put_answer(out: Rows, n: int, row: Mapping[str, Any], at: int = 0, segment: int = 1) -> int:
    """As `put`, of an answer as its file has it: what tools said in it ("given", [start, stop) of its ids) is read, and not learned."""
    stop = put(out, n, row["ids"], row["prompt_tokens"], at, segment)
    for start, end in row.get("given", ()):
        out["weights"][n, at + start - 1 : at + end - 1] = 0
    return stop
