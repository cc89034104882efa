"""Figures of behavior beside scikit-learn's (1.9.1, whose values stand here), SciPy's, closed forms and enumerations."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ptft_jax.evaluation.tasks import statistics as s

SURE = [0.95, 0.93, 0.9, 0.86, 0.74, 0.71, 0.66, 0.52, 0.49, 0.33, 0.31, 0.05]
RIGHT = [1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1]


def test_auroc():
    scores = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.3, 0.3, 0.2, 0.1]
    positive = [1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0]
    assert s.auroc(scores, positive) == pytest.approx(0.7222222222222222)  # sklearn.metrics.roc_auc_score
    above, below = ([v for v, p in zip(scores, positive) if p == side] for side in (1, 0))
    assert s.auroc(scores, positive) == pytest.approx(
        scipy.stats.mannwhitneyu(above, below).statistic / (len(above) * len(below))
    )
    assert math.isnan(s.auroc([0.1, 0.2], [True, True]))


def test_risk_and_coverage_of_ties_is_the_mean_over_their_orders():
    confidence, wrong = np.asarray([0.9, 0.5, 0.5, 0.5, 0.2]), np.asarray([1, 0, 1, 0, 1])
    curves = []
    for order in itertools.permutations(range(5)):
        if (np.diff(confidence[list(order)]) <= 0).all():
            curves.append(np.cumsum(wrong[list(order)]) / np.arange(1, 6))
    np.testing.assert_allclose(s.risk_coverage(confidence, wrong), np.mean(curves, axis=0))


def test_reliability():
    # sklearn.calibration.calibration_curve, strategy="uniform" and "quantile".
    wide = s.reliability(SURE, RIGHT, 5)
    np.testing.assert_allclose([one.right for one in wide], [1, 0.5, 0.5, 2 / 3, 0.75])
    np.testing.assert_allclose([one.sure for one in wide], [0.05, 0.32, 0.505, 0.7033333333, 0.91])
    massive = s.reliability(SURE, RIGHT, 4, equal_mass=True)
    np.testing.assert_allclose([one.right for one in massive], [2 / 3] * 4)
    np.testing.assert_allclose([one.sure for one in massive], [0.23, 0.5566666667, 0.77, 0.9266666667])
    by_hand = (1 * 0.95 + 2 * 0.18 + 2 * 0.005 + 3 * (0.70333333333 - 2 / 3) + 4 * 0.16) / 12
    assert s.expected_error(wide) == pytest.approx(by_hand)
    # Edges belong to the bin below (Guo et al. 2017), and bins of nothing are left out.
    assert [(one.count, one.low) for one in s.reliability([0.0, 0.5, 0.5000001, 1.0], [1] * 4, 2)] == [(2, 0), (2, 0.5)]
    assert [one.count for one in s.reliability(SURE[:5], RIGHT[:5], 3, equal_mass=True)] == [2, 2, 1]
    assert [one.count for one in s.reliability([0.3], [1], 3, equal_mass=True)] == [1]


def test_those_that_are_equally_sure_are_in_one_bin():
    """A model that is always as sure as it is often right has no error, in whatever order it is asked; at 1, many are."""
    for right in itertools.permutations([1, 1, 0, 0]):
        found = s.reliability([0.5] * 4, right, 3, equal_mass=True)
        assert [one.count for one in found] == [4] and s.expected_error(found) == 0
    found = s.reliability([0.2, 1.0, 1.0, 1.0, 0.4, 1.0], [0, 1, 0, 1, 1, 0], 3, equal_mass=True)
    assert [(one.count, one.sure, one.right) for one in found] == [(2, pytest.approx(0.3), 0.5), (4, 1.0, 0.5)]


def test_what_is_on_an_edge_is_below_it_however_it_is_rounded():
    for n in range(1, 101):  # 0.07 * 100 is more than 7
        assert [one.high for one in s.reliability([n / 100], [1], 100)] == [n / 100]


def test_brier():
    p = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.05, 0.05, 0.9], [0.5, 0.4, 0.1]]
    assert s.brier(p, [0, 2, 1, 2, 1]) == pytest.approx(0.475)  # sklearn's brier_score_loss, scale_by_half=False
    assert s.brier([[0, 1]], [0]) == 2


@pytest.mark.parametrize(("count", "total", "level"), [(0, 5, 0.95), (5, 5, 0.9), (3, 17, 0.99)])
def test_wilson(count, total, level):
    found = scipy.stats.binomtest(count, total).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(s.wilson(count, total, level), (found.low, found.high), atol=1e-12)


def test_the_gap_has_the_interval_of_its_distribution():
    """Of two groups of two the resampled gap has a distribution that can be enumerated."""
    groups = [[1, 0], [1, 0, 0, 0]]
    outcomes = sorted(
        np.mean(a) - np.mean(b)
        for a in itertools.product([1, 0], repeat=2)
        for b in itertools.product(groups[1], repeat=4)
    )
    low, high = s.bootstrap_gap(groups, 0.9, 4000, seed=0)
    assert (low, high) == (outcomes[round(0.05 * len(outcomes))], outcomes[round(0.95 * len(outcomes))])
    assert s.bootstrap_gap(groups, 0.9, 50, seed=0) == s.bootstrap_gap(groups, 0.9, 50, seed=0)


def test_distances():
    true, model = [0.5, 0.5, 0.0], [0.25, 0.7, 0.05]
    assert s.divergence(true, np.log(model) - 3) == pytest.approx(scipy.stats.entropy(true, model))
    assert s.total_variation(true, model) == pytest.approx(0.25)
    assert s.divergence([1, 0], [-2000, 0]) == 2000 and s.divergence([0.5, 0.5], [0, 0]) == 0
    np.testing.assert_allclose(s.normalized(np.log([0.02, 0.06])), [0.25, 0.75])


def test_where_accuracy_drops():
    right, total = [9, 8, 9, 1, 2], [10, 10, 10, 10, 10]
    found = s.drop(right, total)
    assert (found.after, found.accuracy_before, found.accuracy_after) == (3, 26 / 30, 3 / 20)
    log = scipy.stats.binom.logpmf  # whose coefficients cancel
    ratios = {
        after: sum(log(k, n, (sum(right[:after]) if i < after else sum(right[after:])) / (10 * (after if i < after else 5 - after))) for i, (k, n) in enumerate(zip(right, total)))
        - sum(log(k, n, sum(right) / 50) for k, n in zip(right, total))
        for after in range(1, 5)
    }  # fmt: skip
    assert max(ratios, key=ratios.get) == 3 and found.log_ratio == pytest.approx(ratios[3])
    assert s.drop([1, 5, 9], [10, 10, 10]) is None and s.drop([3, 3], [10, 10]) is None
    assert s.drop([10, 0], [10, 10]).after == 1


# (seed, rows, dimensions, classes, penalty) -> the accuracy of sklearn.linear_model.RidgeClassifier
RIDGE = {
    (0, 60, 5, 3, 1.0): 0.55,
    (1, 90, 8, 4, 1e-6): 17 / 30,
    (2, 24, 40, 3, 10.0): 0.875,
    (3, 50, 6, 2, 0.5): 11 / 17,
}


@pytest.mark.parametrize("case", RIDGE, ids=str)
def test_the_probe_is_ridge_regression(case):
    seed, rows, size, classes, penalty = case
    random = np.random.default_rng(seed)
    c = random.integers(0, classes, rows)
    x = random.normal(size=(classes, size))[c] * 0.6 + random.normal(size=(rows, size))
    cut = rows * 2 // 3
    assert s.ridge_accuracy(x[:cut], c[:cut], x[cut:], c[cut:], penalty) == pytest.approx(RIDGE[case])
    # The smaller of the two systems that can be solved gives what the other does; a class that was not learned is never right.
    assert s.ridge_accuracy(x[:cut], c[:cut], x[cut:], np.full(rows - cut, classes), penalty) == 0
    if not penalty > 1e-3:
        assert s.ridge_accuracy(x[:cut], c[:cut], x[cut:], c[cut:], 0.0) == pytest.approx(RIDGE[case])
