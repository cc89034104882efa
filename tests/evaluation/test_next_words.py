"""Whole words by their tokens: beside sums by hand."""

import numpy as np
import pytest

from ptft_jax.evaluation.next_words import END, words_after
from ptft_jax.verbs.next import bars

PIECES = [b" mat", b" m", b"at", b".", b" cha", b"ir", b"", b"s", b"'", b" "]


def table(**rows):
    """What follows each beginning, by its text: probabilities of pieces."""

    def following(beginnings):
        found = []
        for ids in beginnings:
            p = rows[b"".join(PIECES[i] for i in ids).decode().replace(" ", "_").replace("'", "Q") or "start"]
            found.append([p.get(piece.decode(), 0.0) for piece in PIECES])
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(found))

    return following


ROWS = dict(
    start={" mat": 0.3, " m": 0.2, " cha": 0.3, ".": 0.1, "": 0.1},
    _mat={".": 0.5, " mat": 0.2, "s": 0.1, "": 0.1, "'": 0.1},
    _m={"at": 0.9, " ": 0.1},
    _cha={"ir": 1.0},
    _chair={" ": 1.0},
    _mats={".": 1.0},
    _matQ={"s": 0.5, ".": 0.5},
    _matQs={"": 1.0},
)


def test_probabilities_add_up_over_tokens():
    found = words_after(table(**ROWS), PIECES, 64)
    mat = 0.3 + 0.2 * 0.9  # in one token or in two
    expected = {
        "chair": 0.3,
        ".": 0.1,
        END: 0.1,
        "m": 0.02,
        "mat": mat * (0.8 + 0.1 * 0.5),
        "mats": mat * 0.1,
        "mat's": mat * 0.05,
    }
    assert dict(found.words) == pytest.approx(expected) and found.open == pytest.approx(0, abs=1e-12)
    assert [word for word, _ in found.words][:2] == ["mat", "chair"]


def test_what_is_not_looked_at_is_said():
    found = words_after(table(**ROWS), PIECES, 1)
    assert dict(found.words) == pytest.approx({".": 0.1, END: 0.1}) and found.open == pytest.approx(0.8)
    assert found.looked_at == 1 and "80.0% open: the 1 likeliest" in bars(found, 5)[-1]
    for most in range(1, 12):
        found = words_after(table(**ROWS), PIECES, most)
        assert sum(p for _, p in found.words) + found.open == pytest.approx(1)
    short = words_after(table(**ROWS), PIECES, 64, longest=1)
    assert sum(p for _, p in short.words) + short.open == pytest.approx(1)


def test_bars():
    lines = bars(words_after(table(**ROWS), PIECES, 64), 2)
    assert lines[0].startswith("  mat     40.8%  ████████████████") and lines[2] == "  29.2% other words"
