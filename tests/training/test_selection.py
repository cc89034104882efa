"""The best state and early stopping, by hand-made tables; which way a metric is better."""

import math

import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation.names import direction
from ptft_jax.training.selection import Selection


def ends(values, *, patience, min_delta, mode="min"):
    """The number of evaluations after which a run ends; None = it does not."""
    selection = Selection("x", mode, patience, min_delta)
    for number, value in enumerate(values):
        selection.update(number, {"x": value})
        if selection.ended:
            return number + 1
    return None


@pytest.mark.parametrize(
    "values, patience, min_delta, end",
    [
        # Ten gains of 0.04 each: every third is 0.12 below the last that counted.
        ([1 - 0.04 * n for n in range(11)], 3, 0.1, None),
        ([1 - 0.04 * n for n in range(11)], 2, 0.1, 3),
        # Half the least gain, for ever: after two of them the sum counts (0.05 + 0.05 is not above 0.1, the third is).
        ([1 - 0.05 * n for n in range(9)], 3, 0.1, None),
        ([1.0, 0.95, 0.94, 0.93, 0.92], 3, 0.1, 4),
        # Up and down: a worse value does not move what is compared with.
        ([1.0, 1.5, 0.95, 0.89, 2.0, 0.85, 0.80], 3, 0.1, 7),
        ([1.0, 1.0, 1.0], 2, 0.0, 3),
        ([1.0, math.nan, 0.9, math.nan, math.nan], 2, 0.0, 5),
    ],
)
def test_min_delta_counts_from_the_last_gain(values, patience, min_delta, end):
    assert ends(values, patience=patience, min_delta=min_delta) == end
    mirrored = [-v for v in values]
    assert ends(mirrored, patience=patience, min_delta=min_delta, mode="max") == end


def test_the_best_is_kept_though_it_is_no_gain():
    s = Selection("x", "min", 5, 0.1)
    found = [s.update(n, {"x": v}) for n, v in enumerate([1.0, 0.95, 0.92, 0.93])]
    assert found == [True, True, True, False] and (s.best, s.best_step, s.counted, s.stale) == (0.92, 2, 1.0, 3)


def test_an_equal_value_is_no_new_best():
    s = Selection("x", "max", 0, 0.0)
    assert [s.update(n, {"x": v}) for n, v in enumerate([0.5, 1.0, 1.0])] == [True, True, False] and s.best_step == 1


def test_it_goes_on_from_what_it_saved():
    values = [1.0, 0.95, 0.8, 0.79, 0.78, 0.77]
    whole = Selection("x", "min", 3, 0.1)
    for n, v in enumerate(values):
        whole.update(n, {"x": v})
    for cut in range(len(values)):
        part = Selection("x", "min", 3, 0.1)
        for n, v in enumerate(values):
            if n == cut:
                saved, part = part.saved(), Selection("x", "min", 3, 0.1)
                part.restore(saved)
            part.update(n, {"x": v})
        assert part == whole


@pytest.mark.parametrize(
    "metric, mode, expected",
    [
        ("validation/nll", "auto", "min"),
        ("source/nll", "min", "min"),
        ("validation_prose/bits_per_byte", "auto", "min"),
        ("validation/accuracy", "auto", "max"),
        ("validation/accuracy", "max", "max"),
        ("validation/f9", "min", "min"),
    ],
)
def test_the_metric_says_what_is_better(metric, mode, expected):
    assert direction(metric, mode) == expected


@pytest.mark.parametrize(
    "metric, mode, words",
    [
        ("validation/accuracy", "min", "larger values of validation/accuracy are better"),
        ("validation/nll", "max", "smaller values of validation/nll are better"),
        ("validation/f9", "auto", "set 'min' or 'max'"),
    ],
)
def test_a_contradiction_is_refused(metric, mode, words):
    with pytest.raises(UserError, match=words):
        direction(metric, mode)
