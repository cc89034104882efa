"""Words and n-grams against a definition by loops."""

import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.prepare.words import ngrams, whole, words_of

UNSPACED = "漢字ひカไทยລາវខ្មែရ"
TEXTS = st.lists(st.text(max_size=12) | st.text(alphabet="aAbß1 \n,ﬁ" + UNSPACED, max_size=20), max_size=6)


def by_loops(text):
    words, run = [], ""
    for c in unicodedata.normalize("NFKC", text).casefold() + " ":
        letter = unicodedata.category(c)[0] in "LMN"
        alone = letter and any(
            name in unicodedata.name(c, "")
            for name in ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
        )
        if letter and not alone:
            run += c
            continue
        words += [run] if run else []
        run = ""
        words += [c] if alone else []
    return words


def test_words_of_known_texts():
    assert by_loops("Don't STOP, 3.5€: naïve_x") == ["don", "t", "stop", "3", "5", "naïve", "x"]
    words = words_of(["Don't STOP, 3.5€: naïve_x", "", "漢字 and ひ"])
    assert words.lengths.tolist() == [3, 1, 4, 1, 1, 5, 1, 1, 1, 3, 1]
    assert words.offsets.tolist() == [0, 7, 7, 11]
    assert words.alone.tolist() == [False] * 7 + [True, True, False, True]


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="aAbßÉ1 \n,.-_'ﬁ" + UNSPACED, max_size=20), max_size=6),
    n=st.integers(1, 4),
)
def test_equal_words_have_equal_hashes_and_others_do_not(texts, n):
    words = words_of(texts)
    expected = [by_loops(text) for text in texts]
    assert words.counts.tolist() == [len(w) for w in expected]
    assert words.lengths.tolist() == [len(w) for ws in expected for w in ws]
    flat = [w for ws in expected for w in ws]
    assert len(dict(zip(flat, words.hashes.tolist()))) == len(set(words.hashes.tolist())) == len(set(flat))
    hashes, first = ngrams(words, n)
    starts = words.offsets[:-1]
    grams = [(tuple(ws[i : i + n]), s + i) for ws, s in zip(expected, starts) for i in range(len(ws) - n + 1)]
    assert first.tolist() == [i for _, i in grams]
    assert len({(g, h) for (g, _), h in zip(grams, hashes.tolist())}) == len({g for g, _ in grams})
    assert len(set(hashes.tolist())) == len({g for g, _ in grams})
    complete = whole(words)
    for ws, h, start in zip(expected, complete.tolist(), starts):
        assert (h == 0) == (not ws)
        if len(ws) == n:
            assert h == hashes[first == start][0]


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_hashes_in_any_company(texts):
    together = words_of(texts)
    alone = [words_of([text]) for text in texts]
    for name in ("hashes", "lengths", "alone"):
        parts = [getattr(w, name) for w in alone]
        assert np.array_equal(getattr(together, name), np.concatenate(parts) if parts else []), name


def test_hashes_are_the_same_in_every_process_and_version():
    assert words_of(["one two"]).hashes.tolist() == EXPECTED


EXPECTED = [3086658116207601945, 18223452611124278364]
