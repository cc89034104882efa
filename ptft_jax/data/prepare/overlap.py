"""Whether a text shares a long run of words with texts that models are evaluated on: Brown et al. 2020, "Language Models
are Few-Shot Learners", appendix C.

As there, runs of n = 13 words are compared without case and punctuation, and evaluation texts shorter than that, but of
at least 8 words, are one run. Unlike there, a record with a shared run is lost as a whole, not cut around it, and runs
that many records share are no exception: --overlap=list only counts and lists, and leaves the choice to a person.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from ptft_jax.data.prepare.words import Words, ngrams, whole, words_of

SHORTEST = 8  # words; shorter runs are in many texts by chance


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of words of evaluation texts.

    Attributes:
      hashes: words in a run -> uint64 [runs], sorted; which are in which text is not kept.
      texts: how many texts they are from.
      unchecked: texts of fewer than `SHORTEST` words, which nothing is compared with.
    """

    hashes: dict[int, np.ndarray]
    texts: int
    unchecked: int

    @classmethod
    def of(cls, batches: Iterable[Sequence[str]], n: int) -> Runs:
        """The runs of n words of all texts, given in batches."""
        found: dict[int, list[np.ndarray]] = {}
        texts = unchecked = 0
        for batch in batches:
            words = words_of(batch)
            found.setdefault(n, []).append(np.unique(ngrams(words, n)[0]))
            shorter, complete = words.counts < n, whole(words)
            for length in range(min(SHORTEST, n), n):
                of_length = complete[words.counts == length]
                if len(of_length):
                    found.setdefault(length, []).append(of_length)
            texts += len(batch)
            unchecked += int(np.count_nonzero(shorter & (words.counts < SHORTEST)))
        return cls({k: np.unique(np.concatenate(v)) for k, v in sorted(found.items())}, texts, unchecked)

    def shared(self, words: Words) -> np.ndarray:
        """int64 [texts]: the index among all words of the first word of each text's first shared run; -1 for none."""
        none = len(words.hashes)
        out = np.full(len(words.counts), none, np.int64)
        for n, hashes in self.hashes.items():
            if not len(hashes):
                continue
            found, first = ngrams(words, n)
            place = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
            hits = first[hashes[place] == found]
            np.minimum.at(out, words.text_of[hits], hits)
        return np.where(out == none, -1, out)
