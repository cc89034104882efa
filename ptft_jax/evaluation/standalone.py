"""Evaluating a loaded run outside of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.data import batches, builders, class_names, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet


class Program:
    """The part of a compiled program that evaluation needs, over bare parameters."""

    def __init__(self, model: Any, objective: Any, place: Callable[[Rows], dict[str, jax.Array]] = jax.device_put):
        """`place` puts this process' rows of a batch on devices."""
        self.evaluate = jax.jit(lambda params, batch: objective.loss(model, params, batch).metrics)
        self.place = place


class Measurement:
    """A part of a data source, ready to measure a model and others with its parameters' shapes on."""

    def __init__(
        self,
        loaded: Any,
        source: str,
        split: str,
        *,
        tokens: int = 0,
        batch_size: int = 16,
        length: int = 0,
        **reading: Any,
    ):
        """As `evaluate`, which has the errors."""
        if not source and loaded.source.data is None:
            raise UserError(f"--data is missing: what {loaded.source.name} was trained on is not known")
        most = loaded.model.max_tokens
        if length > most:
            raise UserError(f"--length = {length}: the model sees at most {most} tokens")
        config = loaded.source.config
        objectives.check(config.objective.name, loaded.model.spec, config.tables.objectives)
        values = config.as_dict()
        values["data"] |= {"length": length or config.data.length, **reading}
        if source and not split and reading.get("held_out"):
            raise UserError(
                f"--held_out={reading['held_out']}: nothing is held out where all of --data is measured: give --split"
            )
        if source:
            values["data"]["source"] = source
        data = configs.check(values).data
        builder = builders.build(config.objective, loaded.tokenizer)
        split, opened = (
            pipeline.to_measure(data.source, split, data.broken) if source else (split or "validation", None)
        )
        read = pipeline.tokenized(data, data.source, split, loaded.tokenizer, builder.kinds, opened)
        read, _ = class_names.numbered(read, class_names.of(loaded.source))
        found = pipeline.filled(data, read, builder, partial=True)
        if found.rows.packed and (why := loaded.model.one_text_a_row):
            raise UserError(
                f"--packing={data.packing}: rows of several texts cannot share learned vectors before the tokens in a model with "
                f"{why}: --packing=none"
            )
        rows = batches.evaluation(found.rows, batch_size=batch_size, tokens=tokens)
        objective = objectives.build(config.objective)
        lengths = tok.byte_lengths(loaded.tokenizer) if objective.chained else None
        self._set = EvalSet(split, rows, Program(loaded.model, objective), lengths)
        self._facts = {"data": data.source, "split": split, "examples": len(read.store)}
        self._facts |= {"tokens_scored": int(self._set.tokens)}
        self._facts |= {"labels": read.labels} if read.labels else {}
        self._lost = {"lost": found.lost()} if found.lost() else {}

    def values(self, params: Any) -> dict[str, float]:
        """Metrics of a model's parameters, by name without a set's: {"nll", "accuracy", ...}."""
        return {k.split("/", 1)[1]: v for k, v in self._set.run(params).items()}

    def report(self, params: Any) -> dict[str, Any]:
        """What `evaluate` returns."""
        return {**self._facts, **self.values(params), **self._lost}


def evaluate(
    loaded: Any,
    source: str = "",
    split: str = "",
    *,
    tokens: int = 0,
    batch_size: int = 16,
    length: int = 0,
    **reading: Any,
) -> dict[str, Any]:
    """Metrics of a loaded run (`ptft_jax.runs.loading.load`) on a data source, with the run's objective, as `ptft eval` does.

    Args:
      source: as `config.data.source`; "" = the run's own.
      split: "train", "validation" or "test"; one that the source lacks is the share that training would hold out. "" = of the
        run's own source "validation"; of another all that it holds, and its validation split where it has several.
      tokens: use only the first so many tokens; 0 = all.
      batch_size: rows at a time.
      length: tokens per row; 0 = as the run was trained (imported weights: at most 1024).
      reading: other settings of `config.data` than the run's, such as `template`.

    Returns:
      {"data", "split" ("all" of a source without splits), "examples" (of the split), "tokens_scored", "nll" (nats per token), "bits_per_byte", "accuracy", ...}; where not all of the split is
      measured, also "lost": what is left out or cut, see `ptft_jax.data.pipeline.Filled.lost`; of classification, where the
      source numbers its classes otherwise than the model, "labels": which number is which class.

    Raises:
      UserError: no source where the model's own data are not known, or a model that predicts no next token.
    """
    options = {"tokens": tokens, "batch_size": batch_size, "length": length, **reading}
    return Measurement(loaded, source, split, **options).report(loaded.params)
