"""The batch of a training step by its form alone: what rows of the objective have, without any data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptft_jax.data import batches, builders, filling, packing, records, source_splits, store
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.training import reference
from ptft_jax.training.trainer import Trainer


def of(trainer: Trainer) -> dict[str, Any]:
    """The shapes and dtypes of a training batch of all devices. Rows are filled as pre-training fills them, by windows of a stream, or,
    where a run starts from a parent or the objective has examples, by examples side by side.

    Raises:
      UserError: an objective whose rows a model writes, or settings that no rows can have.
    """
    c = trainer.config
    builder = builders.build(c.objective, tok.ByteTokenizer(), c.model.causal)
    if builder.sampled:
        raise UserError(
            f"config.objective.name = {c.objective.name!r}: what a step learns from is written by the model, and is not planned"
        )
    kind = next((k for k in (("answers",) if trainer.tuned else ()) + builder.kinds if k in builder.kinds), "text")
    length = packing.longest(builder.slots, c.data.length) // (2 if builder.paired or builder.scored else 1)
    sequences = 2 if builder.paired or builder.scored else 1
    labelled = builder.labelled or builder.rated or builder.judged
    held = store.Store(
        ids=np.zeros(length * sequences, store.ids_dtype(trainer.model.spec.vocab_size)),
        offsets=np.arange(sequences + 1, dtype=np.int64) * length,
        trained=None,
        labels=np.zeros(1, np.float32 if builder.numeric else np.int32) if labelled else None,
        origins=np.zeros(1, np.int64),
        key="",
        per_example=sequences,
    )
    tokens = source_splits.Tokens("a planned source", "train", held, kind, kind, (), False, str, records.Skipped())
    rows = filling.filled(c.data, tokens, builder, partial=True).rows
    sets = (rows,)
    if trainer.objective.precomputed:
        sets = reference.pending(trainer, sets)
    return batches.forms(sets, c.data.batch_size, adapters=bool(c.tune.adapters))
