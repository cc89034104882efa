"""Rows to batches: training batches are a pure function of (data, seed, step); evaluation covers a set exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from ptft_jax.data.tokens import TokenStream, Windows

Rows = dict[str, np.ndarray]


def training(
    stream: TokenStream, *, length: int, batch_size: int, seed: int, start: int, prefetch: int
) -> Iterator[Rows]:
    """This process' rows of batch `start`, `start` + 1, ...: shuffled anew each epoch, without end.

    Batch k is made of the shuffled examples k * batch_size and following, whatever the number of processes, so a
    position in the data is just the step.

    Raises:
      UserError: the data hold less than one row.
    """
    import grain

    rows = Windows(stream, length, partial=False, field="config.data.length")
    examples = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
    mine = examples[jax.process_index() :: jax.process_count()].batch(batch_size // jax.process_count())
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=prefetch)
    iterator = iter(mine.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def evaluation(stream: TokenStream, *, length: int, batch_size: int, tokens: int) -> list[Rows]:
    """All batches of a set, in order; the last is filled up with rows of weight 0.

    `tokens` > 0 keeps only the first rows that hold so many.
    """
    windows = Windows(stream, length, partial=True, field="config.data.length")
    count = len(windows) if not tokens else min(len(windows), -(-tokens // length))
    batches = []
    for first in range(0, count, batch_size):
        rows = [windows[i] for i in range(first, min(first + batch_size, count))]
        batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
        short = batch_size - len(rows)
        padded = {k: np.pad(v, [(0, short)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}
        mine = slice(jax.process_index(), None, jax.process_count())
        batches.append({k: v[mine] for k, v in padded.items()})
    return batches
