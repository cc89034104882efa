"""Answers after prompts that they do not belong to: what a model makes of those says how far it is from its reference (KTO)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.store import Store
from ptft_jax.errors import UserError

FORM = "mismatched-1"  # part of the key: changes with what is put together


def of(store: Store, where: Callable[[int], str]) -> Store:
    """Pairs, as `Store` has them, of each example and its prompt with the answer of another: the next one in an order that is the same for
    the same number of examples. The prompt ends where the first id that is learned begins.

    Args:
      where: index of an example -> its place, for messages.

    Raises:
      UserError: an answer that is empty, or has no label; a single example.
    """
    count = len(store)
    labels = store.labels
    assert labels is not None and store.trained is not None, "rated answers come with their prompt and label"
    if len(store.empty):
        example = int(np.searchsorted(store.offsets, store.empty[0], side="right")) - 1
        raise UserError(
            f"{where(example)}: the answer is empty, and can be called neither good nor bad: leave it out, or give the source the option "
            "empty_answers=context, and set config.data.untrainable to 'drop'"
        )
    if count < 2:
        raise UserError(
            f"{where(0)}: the only answer, and the distance from the reference is measured on the answers of others"
        )
    order = np.random.default_rng(0).permutation(count)
    other = np.empty(count, np.int64)
    other[order] = np.roll(order, -1)
    begins, ends = store.offsets[:-1], store.offsets[1:]
    firsts = [_first(store.trained[a:b]) for a, b in zip(begins, ends)]
    answers = begins + firsts
    ids, trained, lengths = [], [], []
    for n in range(count):
        a, b, c, d = begins[n], ends[n], answers[other[n]], ends[other[n]]
        ids += [store.ids[a:b], store.ids[a : answers[n]], store.ids[c:d]]
        trained += [store.trained[a:b], store.trained[a : answers[n]], store.trained[c:d]]
        lengths += [b - a, answers[n] - a + d - c]
    return Store(
        np.concatenate(ids),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        np.concatenate(trained),
        labels,
        store.origins,
        cache.digest(FORM, store.key),
        2,
        keys=store.keys,
    )


def _first(trained: np.ndarray) -> int:
    """How many ids come before the first that is learned; all of them where none is."""
    return int(np.argmax(trained)) if trained.any() else len(trained)
