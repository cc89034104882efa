"""Evaluating a loaded run outside of training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.config import metrics
from ptft_jax.config.metrics import Measures
from ptft_jax.data import batches, builders, class_names, filling, records, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pictures import settled as pictures
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation import measured_sets
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.interop import padding
from ptft_jax.interop.pretrained import Pretrained
from ptft_jax.objectives import counts
from ptft_jax.objectives.base import evaluated
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading


class Program:
    """The part of a compiled program that evaluation needs, over bare parameters."""

    def __init__(
        self,
        model: Any,
        objective: Any,
        measures: Measures,
        place: Callable[[Rows], dict[str, jax.Array]] = jax.device_put,
        reference: Any = None,
    ):
        """`measures`: beside the objective's own metrics; `place` puts this process' rows of a batch on devices; `reference`:
        parameters that the objective compares others with, where it does."""
        compiled = jax.jit(functools.partial(evaluated, objective, measures, model))
        self.evaluate = lambda params, batch: compiled(params, batch, reference)
        self.place = place


class Measurement:
    """A part of a data source, ready to measure a model and others with its parameters' shapes on.

    Attributes:
      split, batches, objective: what is measured, by what.
      fingerprint: of its records; of tokens that are prepared, of these.
    """

    def __init__(
        self,
        loaded: Any,
        source: str,
        split: str,
        *,
        tokens: int = 0,
        batch_size: int = 16,
        length: int = 0,
        plugins: Sequence[str] = (),
        objective: str = "",
        **reading: Any,
    ):
        """As `evaluate`, which has the errors."""
        if not source and loaded.source.data is None:
            raise UserError(f"--data is missing: what {loaded.source.name} was trained on is not known")
        most = loaded.model.max_tokens
        if length > most:
            raise UserError(f"--length = {length}: the model sees at most {most} tokens")
        config = loaded.source.config
        values = config.as_dict()
        if objective:
            known = config.tables.objectives
            if objective not in known:
                raise UserError(
                    f"--objective = {objective!r}: expected one of {', '.join(known)}{nearest(objective, known)}"
                )
            values["objective"]["name"] = objective
            pictures.complete_anew(values)
            config = configs.check(values)
        objectives.check(config.objective.name, loaded.model.spec, config.tables.objectives)
        values["data"] |= {"length": length or config.data.length, **reading}
        if source and not split and reading.get("held_out"):
            raise UserError(
                f"--held_out={reading['held_out']}: nothing is held out where all of --data is measured: give --split"
            )
        if source:
            values["data"]["source"] = source
        values["plugins"] = tuple(dict.fromkeys((*config.plugins, *plugins)))
        pictures.complete_anew(values)
        data = configs.check(values).data
        measured_sets.refuse_alone(config, batch_size, "--batch_size")
        tokenizer = loaded.tokenizer or tok.ByteTokenizer()  # of images, which are bytes
        builder = builders.for_model(config.objective, tokenizer, loaded.model.spec, data)
        if loaded.model.spec.reads_last and isinstance(loaded.source, Pretrained):
            padding.refuse_end(loaded.source, builder.last_tokens(tokenizer), "--run")
        split, opened = (
            source_splits.to_measure(data, data.source, split, builder.kinds)
            if source
            else (split or "validation", None)
        )
        read = source_splits.tokenized(data, data.source, split, tokenizer, builder.kinds, opened)
        read, head = class_names.numbered(read, class_names.of(loaded.source))
        self._classes = head.names
        found = filling.filled(data, read, builder, partial=True)
        if found.rows.packed and (why := loaded.model.one_text_a_row):
            raise UserError(
                f"--packing={data.packing}: rows of several texts cannot share learned vectors before the tokens in a model with "
                f"{why}: --packing=none"
            )
        rows = batches.evaluation(found.rows, batch_size=batch_size, tokens=tokens)
        measure = objectives.build(config.objective).live  # nothing was computed of these rows
        lengths = tok.byte_lengths(tokenizer) if measure.chained else None
        measures = metrics.chosen(config.eval.metrics, config.tables.metrics)
        reference = loading.parent_parameters(loaded) if measure.needs_reference else None
        program = Program(loaded.model, measure, measures, reference=reference)
        self._set = EvalSet(split, rows, program, lengths)
        self.split, self.batches, self.objective = split, rows, measure
        self.fingerprint = read.opened.records.fingerprint if read.opened else read.store.key
        self._named = (data.source, data.tables.sources) if read.opened else None
        self._facts = {"data": data.source, "split": split, "examples": len(read.store)}
        self._facts |= {"tokens_scored": int(self._set.tokens)}
        self._facts |= {"labels": read.labels} if read.labels else {}
        self._lost = {"lost": found.lost()} if found.lost() else {}

    @property
    def sources(self) -> dict[str, records.Source]:
        """The source, opened, by its reference; {} of tokens that are prepared."""
        if self._named is None:
            return {}
        name, kinds = self._named
        return {name: records.open_source(name, kinds=kinds, trains=False)}

    def values(self, params: Any) -> dict[str, float]:
        """Metrics of a model's parameters, by name without a set's: {"nll", "accuracy", ...}."""
        return {k.split("/", 1)[1]: v for k, v in self._set.run(params).items()}

    def report(self, params: Any) -> dict[str, Any]:
        """What `evaluate` returns."""
        values, confusion = self._set.measured(params)
        table = {} if confusion is None else {"confusion": counts.shown(confusion, self._classes)}
        return {**self._facts, **{k.split("/", 1)[1]: v for k, v in values.items()}, **table, **self._lost}


def evaluate(
    loaded: Any,
    source: str = "",
    split: str = "",
    *,
    tokens: int = 0,
    batch_size: int = 16,
    length: int = 0,
    plugins: Sequence[str] = (),
    objective: str = "",
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
      plugins: modules that have the source's kind, where none of the run's has.
      objective: the name of another objective to measure by, of those that the model goes with; "" = the run's own, of imported
        weights what follows from their head.
      reading: other settings of `config.data` than the run's, such as `template`.

    Returns:
      {"data", "split" ("all" of a source without splits), "examples" (of the split), "tokens_scored", "nll" (nats per token),
      "bits_per_byte", "accuracy", ...}; of classification also "f1_macro", "f1_weighted", and of up to 100 classes "confusion":
      {"classes": names, "counts": for each class how many of its rows were given each}; where not all of the split is
      measured, also "lost": what is left out or cut, see `ptft_jax.data.filling.Filled.lost`; of classification, where the
      source numbers its classes otherwise than the model, "labels": which number is which class.

    Raises:
      UserError: no source where the model's own data are not known, a model that the objective does not go with, or whose
        parameters are not finite.
    """
    name = loaded.source.name if loaded.source is not None else "the model"
    finite.refuse(flatten(loaded.params), name, "\nno figure comes of them")
    options: dict[str, Any] = {
        "tokens": tokens,
        "batch_size": batch_size,
        "length": length,
        "plugins": plugins,
        "objective": objective,
    }
    options |= reading
    return Measurement(loaded, source, split, **options).report(loaded.params)
