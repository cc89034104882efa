"""A tokenized source as rows: cut and packed, and what was lost on the way."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ptft_jax.data import batches, mismatched, packing, stepped
from ptft_jax.data.builders import Builder
from ptft_jax.data.options import DataOptions
from ptft_jax.data.rows import RowSet
from ptft_jax.data.source_splits import Tokens
from ptft_jax.errors import UserError
from ptft_jax.pairing import check_kind

_SHOWN = 5  # places of empty answers


@dataclasses.dataclass(frozen=True)
class Filled:
    """A source as rows, and what was lost on the way."""

    tokens: Tokens
    rows: RowSet

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """For tables and data.json: "examples" and "tokens" that there are, and what became of them. "trained" is the sum of
        the rows' weights, what one pass over them learns: where chance decides it, as in the first pass of a run with this
        seed and no other source. "left_out" names the first of the records that were skipped, "empty_at" the first of those
        with empty answers that are learned."""
        store, report = self.tokens.store, self.rows.plan.report
        learned = self.rows.learned()
        return {
            "source": self.tokens.reference,
            "split": self.tokens.split,
            "format": "; ".join(filter(None, (self.tokens.description, self.tokens.labels))),
            "classes": list(self.tokens.classes),
            "examples": len(store),
            "tokens": len(store) * self.rows.length if self.rows.builder.pictured else len(store.ids),
            "trained": batches.learned(self.rows, seed) if learned is None else learned,
            **self.empty(),
            "skipped": self.tokens.skipped.count,
            "left_out": self.tokens.skipped.first,
            **{("split_up" if k == "split" else k): v for k, v in dataclasses.asdict(report).items()},
            "efficiency": report.efficiency,
        }

    def lost(self) -> dict[str, int]:
        """What of the source is in no row or only in part, by how it came to that; {} = nothing. The few tokens that a
        stream ends with are no loss."""
        report = self.rows.plan.report
        names = ("empty", "dropped", "truncated", "untrainable", "equal")
        counts = {"skipped": self.tokens.skipped.count, **{name: getattr(report, name) for name in names}}
        found = {name: count for name, count in counts.items() if count}
        return {**found, "tokens_lost": report.tokens_lost} if found else {}

    def empty(self) -> dict[str, Any]:
        """How many empty answers are learned, and the first examples that have some: {"empty_answers", "empty_at"}."""
        return empty_of(self.tokens, self.rows.empty())


def empty_of(tokens: Tokens, which: np.ndarray | slice = slice(None)) -> dict[str, Any]:
    """As `Filled.empty`, of some of a source's empty answers by their numbers."""
    store = tokens.store
    places = store.empty[which]
    examples = np.unique((np.searchsorted(store.offsets, places, side="right") - 1) // store.per_example)
    return {"empty_answers": len(places), "empty_at": [tokens.where(int(example)) for example in examples[:_SHOWN]]}


def packed_how(setting: str, tokens: Tokens, builder: Builder) -> str:
    """How `config.data.packing` has a source fill rows. Raises UserError where the objective wants it otherwise."""
    if builder.labelled or builder.sampled or builder.matched or builder.pictured:
        if setting not in ("auto", "none"):
            has = "one prompt that is answered" if builder.sampled else "one class, and holds one text"
            has = "one question, and what belongs to it" if builder.matched else has
            has = "one image" if builder.pictured else has
            raise UserError(f"config.data.packing = {setting!r}: a row has {has}; leave it at 'auto'")
        return "none"
    if setting != "auto":
        return setting
    whole = tokens.kind in ("text", "rated-text") or (tokens.kind == "tokens" and tokens.store.trained is None)
    return "concat" if whole else "best_fit" if builder.neighbors is None else "none"


def filled(data: DataOptions, tokens: Tokens, builder: Builder, *, partial: bool, seed: int = 0) -> Filled:
    """Cuts and packs a tokenized source into rows of `config.data.length`, by the settings of `config.data`.

    Args:
      partial: rows are measured, not trained on: where they are windows of a stream, also have the last one, which is short; and
        images as they are.
      seed: order in which examples are packed.

    Raises:
      UserError: examples that are too long or have nothing to learn, where the settings do not say what to do with
        them; too little data for a row; data of a kind that the objective does not learn from.
    """
    builder = builder.plain if partial else builder
    builder.check(data.length)
    check_kind(builder.kinds, tokens.kind, tokens.reference, tokens.description, data.tables.objectives)
    if builder.rated:
        tokens = dataclasses.replace(tokens, store=mismatched.of(tokens.store, tokens.where, data.length))
    store, how = tokens.store, packed_how(data.packing, tokens, builder)
    if store.trained is not None and not builder.partly:
        raise UserError(
            f"{tokens.reference}: {tokens.description}: it says which tokens to learn, and the objective learns whole texts; "
            "objective.name='prefix_lm' reads the rest in both directions"
        )
    if builder.scored and data.overlong == "truncate":
        raise UserError(
            "config.data.overlong = 'truncate': an answer is scored at its end, which is cut off: expected 'raise' or 'drop'"
        )
    if builder.sampled and data.overlong not in ("raise", "drop"):
        raise UserError(
            f"config.data.overlong = {data.overlong!r}: a record is a prompt that is answered, and is not cut: expected 'raise' or 'drop'"
        )
    if builder.matched:
        _refuse_unmatched(data, tokens)
    if builder.stepped:
        stepped.refuse_cut(how, data.overlong)
    sequential = bool(builder.overlap)  # ids are predicted from those before them
    plan = packing.plan(
        store.offsets,
        data.length,
        how=how,
        overlong=data.overlong,
        slots=builder.slots,
        overlap=builder.overlap,
        seed=seed,
        where=lambda sequence: tokens.where(sequence // store.per_example),
        learned=None if store.trained is None else functools.partial(store.learned, first=not sequential),
        untrainable=data.untrainable,
        partial=partial,
        units=np.arange(0, len(store.offsets), 2) if builder.paired else None,
        seconds=builder.rated,
        same=store.same if builder.paired and not builder.rated else None,
    )
    segmented = (how != "concat" or builder.looks_ahead) and not builder.pictured
    pairs = int(np.diff(plan.rows).max()) // 2 if builder.paired and isinstance(plan, packing.Plan) else 0
    return Filled(tokens, RowSet(store, plan, builder, data.length, segmented, pairs))


def _refuse_unmatched(data: DataOptions, tokens: Tokens) -> None:
    """Raises UserError where a row would not have a whole question and what belongs to it, or it is not known which is which."""
    if data.overlong not in ("raise", "drop"):
        raise UserError(
            f"config.data.overlong = {data.overlong!r}: a question and what belongs to it are compared whole: expected 'raise' or 'drop'"
        )
    if tokens.store.trained is None:
        raise UserError(
            f"{tokens.reference}: it is not known where a question ends: expected prompts and completions, and data.train_on='assistant'"
        )
