"""BM25 (Robertson & Zaragoza 2009) as Lucene has it: a score of each passage by the words that it shares with a question.

The score of a word in a passage is log(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length)), where it is in n of
N passages, and f times in this one. A word that a question says twice counts twice. rank_bm25's `BM25Okapi` has another first factor, which
is negative, or replaced, where a word is in more than half of the passages; and multiplies by k1 + 1, which changes no order.
"""

from __future__ import annotations

import logging
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ptft_jax.environment import needed
from ptft_jax.errors import UserError
from ptft_jax.retrieval.passages import Passage, Written

_WORDS = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case: no word is left out, and none is cut down to a stem."""
    return _WORDS.findall(text.casefold())


def library() -> Any:
    """bm25s. Raises UserError where it is not installed."""
    found = needed("bm25s", "an index of kind bm25")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # which it sets to DEBUG for everybody
    return found


def build(folder: pathlib.Path, passages: Iterable[Passage], k1: float, b: float) -> None:
    """Writes an index of passages. Raises UserError for a passage without a word."""
    texts, numbers = [], dict[str, int]()
    for one in passages:
        found = words(one.text)
        if not found:
            raise UserError(f"{one.where}: field 'text': {one.text.strip()!r} has no word: it would never be found")
        texts.append([numbers.setdefault(word, len(numbers)) for word in found])
    made = library().BM25(method="lucene", k1=k1, b=b, backend="numpy", csc_backend="numpy")
    made.index((texts, numbers), show_progress=False)  # in an order of our own: a set's is another in each process
    made.save(str(folder), show_progress=False)


class Bm25:
    """An index in a folder."""

    def __init__(self, folder: pathlib.Path, passages: Written):
        self._index, self._count = library().BM25.load(str(folder), mmap=True, show_progress=False), len(passages)

    def scores(self, query: str) -> np.ndarray:
        """float32 [passages]; 0 where a passage shares no word with the query."""
        known = self._index.get_tokens_ids(words(query))
        return self._index.get_scores_from_ids(known) if known else np.zeros(self._count, np.float32)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query, the best first, and of equal ones the first: their numbers int32 [queries, k], -1 where no
        further one shares a word with the query; and their scores float32 [queries, k]."""
        numbers, values = np.full((len(queries), k), -1, np.int32), np.zeros((len(queries), k), np.float32)
        for n, query in enumerate(queries):
            scores = self.scores(query)
            order = best(scores, k)
            order = order[scores[order] > 0]
            numbers[n, : len(order)], values[n, : len(order)] = order, scores[order]
        return numbers, values


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The numbers of the k largest scores [n], the largest first, and of equal ones the lowest number first: int64 [min(k, n)]."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")][:k]
