"""Training rows of those of a model's own answers that verifiers choose: the good ones, or the best beside the worst."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax import config as configs
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import ENDED
from ptft_jax.objectives.own_answers import SPARE
from ptft_jax.training.answer_facts import Row, mismatch, refuse_buffer
from ptft_jax.training.answer_rows import blank, put_answer
from ptft_jax.training.prompts import FIELD, Asks, shared_out
from ptft_jax.training.rollouts import Rollouts

EXPERT = "objective.expert"


class Chosen(Rollouts, abc.ABC):
    """As `Rollouts`, of rows of an objective of data: what is learned are the ids that were sampled, of some of the answers."""

    def _configure(self, config: configs.Section) -> None:
        p = config.objective.policy
        self._buffer, self._unended = p.overlong_buffer, p.overlong == "keep"
        refuse_buffer(self._buffer, self._new)
        self._configure_checks(config)

    def _reward(self, rows: list[Row], whole: Any) -> None:
        """Fills in "use", what becomes of an answer, by rewards."""
        for row in rows:
            row["use"] = ""
        for group in self._groups(rows):
            self._choose([r for r in group if not r["unscored"] and (self._unended or r["reason"] in ENDED)])

    @abc.abstractmethod
    def _choose(self, able: Sequence[Row]) -> None:
        """Says in "use" what becomes of the answers to a prompt; `able`: those that have a score, and count."""

    def _facts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means over all answers of a rollout, by their names."""
        scored = [row["reward"] for row in rows if not row["unscored"]]
        return {
            "reward": float(np.mean(scored)),
            "ended": float(np.mean([row["reason"] in ENDED for row in rows])),
            "unscored": float(np.mean([row["unscored"] for row in rows])),
            "mismatch": mismatch(rows),
            **{name: float(np.mean([row[name] for row in rows])) for name in self._more},
        }

    def _groups(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """The answers to each prompt."""
        each = self._prompts.samples
        return [rows[first : first + each] for first in range(0, len(rows), each)]

    def _empty(self, count: int) -> Rows:
        told = (SPARE, *self._objective.facts, *self._more)
        facts = {name: np.zeros(count, np.float32) for name in told}
        return blank(count, self._length) | facts

    def _told(self, out: Rows, rows: Sequence[Mapping[str, Any]], learned: int) -> Rows:
        """A batch with what is to be known of the rollout; `learned`: how many rows teach something."""
        out[SPARE][:] = not learned
        for name, value in self._facts(rows).items():
            out[name][:] = value
        return out


class Kept(Chosen):
    """Rows of the answers that are kept, one each; those that are left are empty."""

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        own, samples = config.objective.expert, config.objective.policy.samples
        keep = own.keep or samples
        if keep > samples:
            raise UserError(f"config.{EXPERT}.keep = {keep}: expected at most {FIELD}.samples = {samples}")
        if own.choice == "best" and keep == samples:
            raise UserError(
                f"config.{EXPERT}.choice = 'best': of {samples} answers to a prompt {'all' if samples > 1 else 'the only one'} would be "
                f"learned, whatever {'they are' if samples > 1 else 'it is'} worth: set {EXPERT}.keep below {FIELD}.samples, or choice='above'"
            )
        name = f"{EXPERT}.keep" if own.keep else f"{FIELD}.samples"
        return Asks(shared_out(config.data.batch_size, keep, name), samples)

    def _configure(self, config: configs.Section) -> None:
        super()._configure(config)
        own = config.objective.expert
        self._most, self._once = own.keep or self._prompts.samples, own.duplicates == "drop"
        self._above = own.above if own.choice == "above" else -np.inf

    def _choose(self, able: Sequence[Row]) -> None:
        kept: list[list[int]] = []
        for row in sorted(able, key=lambda row: row["penalty"] - row["reward"]):  # of equal ones the first stays first
            if row["reward"] - row["penalty"] <= self._above:
                continue
            if self._once and row["ids"] in kept:
                row["use"] = "duplicate"
            elif len(kept) < self._most:
                kept.append(row["ids"])
                row["use"] = "kept"

    def _facts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        solved = [any(row["use"] == "kept" for row in group) for group in self._groups(rows)]
        return super()._facts(rows) | {
            "kept": float(np.mean([row["use"] == "kept" for row in rows])),
            "duplicates": float(np.mean([row["use"] == "duplicate" for row in rows])),
            "unsolved": 1 - float(np.mean(solved)),
        }

    def _batch(self, number: int, rows: Sequence[Mapping[str, Any]], whole: Any) -> Rows:
        out, kept = self._empty(self._size), [row for row in rows if row["use"] == "kept"]
        for n, row in enumerate(kept):
            put_answer(out, n, row)
        return self._told(out, rows, len(kept))


class Paired(Chosen):
    """Rows of pairs, as of preferences: the best answer to a prompt, and the worst. Where none is better than another the row is empty."""

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        return Asks(config.data.batch_size, config.objective.policy.samples, beside=2)

    def _choose(self, able: Sequence[Row]) -> None:
        if not able:
            return
        order = sorted(able, key=lambda row: row["penalty"] - row["reward"])
        best, worst = order[0], order[-1]
        ahead = (best["reward"] - best["penalty"]) - (worst["reward"] - worst["penalty"])
        if ahead > 0 and best["ids"] != worst["ids"]:
            best["use"], worst["use"] = "chosen", "rejected"

    def _facts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        ties = [not any(row["use"] for row in group) for group in self._groups(rows)]
        return super()._facts(rows) | {"ties": float(np.mean(ties))}

    def _empty(self, count: int) -> Rows:
        return super()._empty(count) | {"pairs": np.zeros((count, 1), np.float32)}

    def _batch(self, number: int, rows: Sequence[Mapping[str, Any]], whole: Any) -> Rows:
        out, pairs = self._empty(self._size), 0
        for n, group in enumerate(self._groups(rows)):
            pair = sorted((row for row in group if row["use"]), key=lambda row: row["use"])  # the better first
            at = 0
            for number, row in enumerate(pair, 1):
                at = put_answer(out, n, row, at, number)
            if pair:
                out["pairs"][n], pairs = 1, pairs + 1
        return self._told(out, rows, pairs)
