"""Answers after prompts that they do not belong to: what a model makes of those says how far it is from its reference (KTO)."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.examples import Encoded
from ptft_jax.data.store import Store, cached
from ptft_jax.data.store_writer import Writer
from ptft_jax.errors import UserError

FORM = "mismatched-2"  # part of the key: changes with what is put together
_PART = 4096  # examples that are put together at a time


def of(store: Store, where: Callable[[int], str], length: int) -> Store:
    """Pairs, as `Store` has them, of each example and its prompt with the answer of an example of another prompt, in an order that is the
    same for the same prompts. The prompt ends where the first id that is learned begins.

    Rows are made of the examples as they would be of them alone: the other answer has the positions that are left, and is cut to them.
    Where that is none of its ids, or there is no answer to another prompt, a single id stands for it, which takes no position.

    Args:
      where: index of an example -> its place, for messages.
      length: positions of a row, of which n ids take n - 1.

    Raises:
      UserError: an answer that is empty, or has no label; a single example, or a single prompt.
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
    begins, ends = store.offsets[:-1], store.offsets[1:]
    answers = begins + [_first(store.trained[a:b]) for a, b in zip(begins, ends)]
    other = _others(store.ids, begins, answers, ends)
    if (other < 0).all():
        raise UserError(
            f"{where(0)}: all answers are to its prompt, and the distance from the reference is measured on answers to other prompts"
        )
    key = cache.digest(FORM, store.key, str(length))

    def example(n: int) -> Encoded:
        a, b, m = begins[n], ends[n], other[n]
        room = length - max(b - a - 1, 0)  # positions
        fits = min(room + 1 - (answers[n] - a), ends[m] - answers[m]) if m >= 0 else 0
        prompt, c, d = (answers[n], answers[m], answers[m] + fits) if fits > 0 else (a + 1, a, a)
        both = (np.concatenate([values[a:prompt], values[c:d]]) for values in (store.ids, store.trained))
        return Encoded(store.ids[a:b], store.trained[a:b], rejected=Encoded(*both))

    def fill(folder: pathlib.Path) -> None:
        """In the cache, as the examples themselves are: there are twice as many ids."""
        writer = Writer(folder, np.iinfo(store.ids.dtype).max)
        try:
            for first in range(0, count, _PART):
                part = range(first, min(first + _PART, count))
                writer.add([example(n) for n in part], store.origins[part.start : part.stop])
            writer.close(key)
        finally:
            writer.discard()

    made = cached(key, fill)
    return dataclasses.replace(made, labels=labels, origins=store.origins, keys=store.keys)


def _first(trained: np.ndarray) -> int:
    """How many ids come before the first that is learned; all of them where none is."""
    return int(np.argmax(trained)) if trained.any() else len(trained)


def _others(ids: np.ndarray, begins: np.ndarray, answers: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64 [n]: of each example one of another prompt, whose answer has something that is learned; each is another's once. -1 where there
    is none: of those without such an answer, and where more than half of all have the same prompt."""
    other = np.full(len(begins), -1, np.int64)
    able = np.random.default_rng(0).permutation(np.flatnonzero(answers < ends))
    if not len(able):
        return other
    numbers: dict[bytes, int] = {}
    known = (hashlib.blake2b(ids[begins[n] : answers[n]].tobytes(), digest_size=16).digest() for n in able)
    prompts = np.asarray([numbers.setdefault(prompt, len(numbers)) for prompt in known])
    able, prompts = (values[np.argsort(prompts, kind="stable")] for values in (able, prompts))
    shift = int(np.bincount(prompts).max())  # past all of the same prompt
    found, theirs = np.roll(able, -shift), np.roll(prompts, -shift)
    other[able] = np.where(prompts == theirs, -1, found)
    return other
