"""The batch of a training step by its form alone: what rows of the objective have, without any data."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ptft_jax.data import batches, builders, filling, packing, records, source_splits, store
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import Pictures
from ptft_jax.errors import UserError
from ptft_jax.training import reference
from ptft_jax.training.trainer import Trainer

# Tokens that objectives hide text behind, of a tokenizer that is not there.
_ADDED = ("[MASK]", *(f"<extra_id_{number}>" for number in range(100)))


def of(trainer: Trainer) -> dict[str, Any]:
    """The shapes and dtypes of a training batch of all devices. Rows are filled as pre-training fills them, by windows of a stream, or,
    where a run starts from a parent or the objective has examples, by examples side by side.

    Raises:
      UserError: an objective whose rows a model writes, or settings that no rows can have.
    """
    c = trainer.config
    added = c.tokenizer.add or _ADDED
    builder = builders.for_model(c.objective, tok.with_tokens(tok.ByteTokenizer(), added), c.model, c.data)
    neighbors = builder.neighbors
    if (
        neighbors is not None
    ):  # of which only the form is planned, not how long passages are in a tokenizer that is not there
        builder = dataclasses.replace(builder, neighbors=None)
    if builder.sampled:
        raise UserError(
            f"config.objective.name = {c.objective.name!r}: what a step learns from is written by the model, and is not planned"
        )
    kind = next((k for k in (("answers",) if trainer.tuned else ()) + builder.kinds if k in builder.kinds), "text")
    each = 2 if builder.paired or builder.scored else 1
    length = builder.least if isinstance(builder, Pictures) else packing.longest(builder.slots, c.data.length) // each
    held = _examples(builder, kind, length, 1 if builder.rated else each, trainer.model.spec.vocab_size)
    tokens = source_splits.Tokens("a planned source", "train", held, kind, kind, (), False, str, records.Skipped())
    rows = filling.filled(c.data, tokens, builder, partial=not builder.pictured).rows
    sets = (rows,)
    if trainer.objective.precomputed:
        sets = reference.pending(trainer, sets)
    made = batches.forms(sets, c.data.batch_size, adapters=bool(c.tune.adapters))
    if neighbors is not None:
        shape = neighbors.of_length(c.data.length)
        made["neighbors"] = jax.ShapeDtypeStruct((c.data.batch_size, *shape), np.int32)
    return made


def _examples(builder: builders.Builder, kind: str, length: int, each: int, vocabulary: int) -> store.Store:
    """Two examples of `each` sequences of `length` ids. No two sequences are equal: pairs differ, and prompts do."""
    sequences = 2 * each
    ids = np.repeat(np.arange(sequences) % vocabulary, length).astype(store.ids_dtype(vocabulary))
    partly = builder.partly and kind not in ("text", "rated-text")
    labelled = builder.labelled or builder.rated or builder.judged
    return store.Store(
        ids=ids,
        offsets=np.arange(sequences + 1, dtype=np.int64) * length,
        trained=np.tile(np.arange(length) > 0, sequences) if partly else None,  # a prompt of one id
        labels=np.zeros(2, np.float32 if builder.numeric else np.int32) if labelled else None,
        origins=np.arange(2, dtype=np.int64),
        key="",
        per_example=each,
    )
