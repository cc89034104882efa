"""Differences over seeds beside SciPy, and Holm's correction beside a table made by hand and statsmodels' figures."""

import numpy as np
import pytest
import scipy.stats

from ptft_jax.experiments import seed_differences

VALUES = {n: np.random.default_rng(n).normal(0.3, 1.0, n).tolist() for n in (2, 3, 8, 30)}


@pytest.mark.parametrize("count", VALUES)
def test_p_values_are_scipys(count):
    found = seed_differences.p_value(VALUES[count])
    assert found == pytest.approx(scipy.stats.ttest_1samp(VALUES[count], 0.0).pvalue, rel=1e-9)
    before, after = np.random.default_rng(1).normal(size=(2, count))
    assert seed_differences.p_value((after - before).tolist()) == pytest.approx(
        scipy.stats.ttest_rel(after, before).pvalue, rel=1e-9
    )


@pytest.mark.parametrize("count", [8, 30])
def test_intervals_are_scipys(count):
    """To the error of 10,000 resamples, which differ: a share of 0.002 of the interval's ends are drawn otherwise."""
    theirs = scipy.stats.bootstrap(
        (VALUES[count],), np.mean, n_resamples=200_000, method="percentile", rng=np.random.default_rng(5), batch=20_000
    )
    low, high = seed_differences.interval(VALUES[count])
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert seed_differences.interval(VALUES[count]) == (low, high), "the same each time"


def test_intervals_of_few_seeds_are_those_of_all_resamples():
    """Of 2 the four resamples have means 0, 1/2, 1/2 and 1: a tail of 2.5 % ends at the values themselves."""
    assert seed_differences.interval([0.0, 1.0]) == (0.0, 1.0)
    # Of 3 values each extreme has 1 of 27 resamples, 3.7 %, more than 2.5 %.
    assert seed_differences.interval([0.0, 1.0, 5.0]) == (0.0, 5.0)


def test_differences_that_are_all_the_same():
    assert seed_differences.difference([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 0.0, 3)
    assert seed_differences.difference([0.0, 0.0]) == (0.0, 0.0, 0.0, 1.0, 2)
    assert seed_differences.difference([0.25]) == (0.25, None, None, None, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # statsmodels 0.15: multipletests(given, method="holm")[1]
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, 0.001, 0.5, 0.5, 0.012], [0.6, 0.005, 1.0, 1.0, 0.048]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm(given, expected):
    assert seed_differences.holm(given) == pytest.approx(expected)
