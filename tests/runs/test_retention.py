"""Which checkpoints stay: by hand-made tables, and by enumeration of what a run can go back to."""

import itertools
import math

import pytest

from ptft_jax.runs.retention import Saved, kept, ranked
from ptft_jax.training.selection import Selection


def history(values, mode="min"):
    """What a run that evaluates and saves at every step records."""
    selection, saved = Selection("x", mode, 0, 0.0), []
    for step, value in enumerate(values):
        selection.update(step, {"x": value})
        saved.append(Saved(step, value if math.isfinite(value) else None, selection.best_step))
    return saved


@pytest.mark.parametrize(
    "values, mode, latest, best, stay",
    [
        ([3, 1, 2, 2.5], "min", 2, 1, {1, 2, 3}),
        ([1.0, 1.0, 0.9], "max", 1, 1, {0, 2}),  # of equal values the first is the best, and is recorded as that
        ([0.5, 0.5, 0.5], "min", 1, 1, {0, 2}),
        ([0.5, 0.5, 0.5], "min", 1, 2, {0, 1, 2}),
        ([5, 4, 3, 2], "min", 1, 1, {3}),
        ([1, 2, 3, 0.5], "min", 2, 1, {0, 2, 3}),  # step 2 records 0 as its best
        ([math.nan, math.nan], "min", 1, 1, {1}),
        ([math.inf, 2, -math.inf], "max", 1, 1, {1, 2}),
    ],
)
def test_a_table_made_by_hand(values, mode, latest, best, stay):
    assert kept(history(values, mode), mode, latest=latest, best=best) == stay


@pytest.mark.parametrize("latest, best", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_whatever_the_values_the_best_that_is_recorded_is_there(latest, best):
    """Over all orders of values with ties, with a removal after every save, as a run does it over any number of launches."""
    for values in itertools.product([0.0, 1.0, 2.0, math.nan], repeat=5):
        stay: list[Saved] = []
        for saved in history(values):
            stay.append(saved)
            steps = kept(stay, "min", latest=latest, best=best)
            stay = [one for one in stay if one.step in steps]
            assert len(stay) <= latest + best
            there = {one.step for one in stay}
            newest = [one for one in stay if one.step > saved.step - latest]
            assert len(newest) == min(latest, saved.step + 1)
            for one in newest:  # each may be what the run goes on from
                assert one.best_step in there or one.best_step == -1, values
            finite = [v for v in values[: saved.step + 1] if math.isfinite(v)]
            assert saved.best_step == (values.index(min(finite)) if finite else -1), "the first of the best"


def test_what_is_pinned_stays():
    saved = history([3, 2, 1, 0])
    assert kept(saved, "min", latest=1, best=1, pinned={1, 77}) == {1, 3}


def test_equal_values_rank_by_step():
    assert [s.step for s in ranked(history([2, 1, 1, math.nan, 0]), "min")] == [4, 1, 2, 0]
    assert [s.step for s in ranked(history([2, 1, 1, math.nan, 2]), "max")] == [0, 4, 1, 2]
