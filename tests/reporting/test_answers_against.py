"""Answers of a run against those of its start, by hand."""

import pytest

from ptft_jax.reporting.answers_against import against_start


def rows(step, *answers):
    return [
        {"step": step, "where": f"line {n}", "answer": text, "scores": {"exact": {"value": value}, "judge": {"value": None}}}
        for n, (text, value) in enumerate(answers)
    ]  # fmt: skip


def test_the_selected_step_is_compared_with_the_first():
    first, best, last = (
        rows(0, ("a", 0.0), ("a", 1.0), ("a", 1.0), ("a", 0.0)),
        rows(5, ("b" * 3, 1.0), ("b" * 3, 0.0), ("b" * 3, 1.0), ("b" * 3, 1.0)),
        rows(9, ("", 0.0), ("", 0.0), ("", 0.0), ("", 0.0)),
    )
    exact, judge = against_start([*first, *best, *last], 5)
    assert exact == {
        "step": 5, "verifier": "exact", "answers": 4, "win_rate": 0.625, "length_controlled": pytest.approx(0.625), "wins": 2, "ties": 1,
        "losses": 1, "length at the start": 1.0, "length": 3.0,
    }  # fmt: skip
    assert (judge["answers"], judge["win_rate"], judge["length"]) == (0, None, None)
    for selected in (None, 0, 7):
        assert against_start([*first, *best, *last], selected)[0]["win_rate"] == 0.25
    assert against_start(first, 0) == against_start([], None) == []


def test_an_advantage_of_length_alone_is_taken_off():
    """Longer answers win and shorter ones lose: at equal length as many would win as lose."""
    first = rows(0, *[("aa", 0.5)] * 8)
    last = rows(9, *[("aaaa", 1.0), ("", 0.0)] * 3, *[("aaaa", 1.0)] * 2)
    [found, _] = against_start([*first, *last], None)
    assert found["win_rate"] == 0.625 and found["length_controlled"] < 0.58
