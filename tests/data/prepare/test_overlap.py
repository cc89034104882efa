"""Shared runs of words against a search by loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.prepare.overlap import SHORTEST, Runs
from ptft_jax.data.prepare.words import words_of

TEXTS = st.lists(st.lists(st.sampled_from("ab"), max_size=25).map(" ".join), max_size=5)


def first_shared(text, evaluation, n):
    runs = set()
    for other in evaluation:
        words = other.split()
        if len(words) >= n:
            runs |= {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
        elif len(words) >= SHORTEST:
            runs.add(tuple(words))
    words = text.split()
    places = [i for i in range(len(words)) if any(tuple(words[i : i + len(r)]) == r for r in runs)]
    return min(places, default=-1)


@settings(max_examples=100, deadline=None)
@given(texts=TEXTS, evaluation=TEXTS, n=st.sampled_from([3, 9, 13]), batch=st.integers(1, 3))
def test_shared_runs_are_those_of_a_search(texts, evaluation, n, batch):
    runs = Runs.of((evaluation[i : i + batch] for i in range(0, len(evaluation), batch)), n)
    words = words_of(texts)
    found = runs.shared(words)
    expected = [first_shared(text, evaluation, n) for text in texts]
    assert np.where(found < 0, -1, found - words.offsets[:-1]).tolist() == expected
    assert runs.texts == len(evaluation)
    assert runs.unchecked == sum(len(t.split()) < min(n, SHORTEST) for t in evaluation)


@pytest.mark.parametrize(("kept", "found"), [(13, True), (12, False)])
def test_case_and_punctuation_do_not_hide_a_run_of_thirteen(kept, found):
    words = [f"word{n}" for n in range(30)]
    runs = Runs.of([[" ".join(words)]], 13)
    text = "before, " + "; ".join(w.upper() for w in words[4 : 4 + kept]) + "! after"
    assert (runs.shared(words_of([text]))[0] == 1) == found
