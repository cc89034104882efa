"""Classifiers of vectors, beside scikit-learn's."""

import numpy as np
import pytest

from ptft_jax.evaluation import probe_fits

RNG = np.random.default_rng(0)
MIDDLES = RNG.normal(size=(4, 12))
CLASSES, OTHERS = (RNG.integers(0, 4, n).astype(np.int32) for n in (50, 40))
TRAIN, TEST = ((MIDDLES[c] + RNG.normal(size=(len(c), 12)) * 1.5).astype(np.float32) for c in (CLASSES, OTHERS))


@pytest.mark.parametrize("rows", [50, 8])
def test_least_squares_and_their_sweep_are_those_of_scikit_learn(rows):
    """Also with fewer rows than features."""
    linear = pytest.importorskip("sklearn.linear_model")
    y = np.eye(4)[CLASSES[:rows]]
    theirs = linear.RidgeCV(alphas=probe_fits.STRENGTHS, store_cv_results=True).fit(TRAIN[:rows].astype(np.float64), y)
    scores, strength = probe_fits.ridge(TRAIN[:rows], CLASSES[:rows], TEST, 4)
    assert strength == theirs.alpha_ and probe_fits.STRENGTHS[0] < strength < probe_fits.STRENGTHS[-1]
    np.testing.assert_allclose(scores, theirs.predict(TEST), rtol=1e-6, atol=1e-8)
    for one in (0.5, 64.0):
        plain = linear.Ridge(alpha=one).fit(TRAIN[:rows].astype(np.float64), y)
        np.testing.assert_allclose(
            probe_fits.ridge(TRAIN[:rows], CLASSES[:rows], TEST, 4, (one,))[0],
            plain.predict(TEST),
            rtol=1e-6,
            atol=1e-8,
        )


def test_logistic_regression_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    theirs = (
        linear.LogisticRegression(C=1.0, tol=1e-8, max_iter=2000)
        .fit(TRAIN.astype(np.float64), CLASSES)
        .decision_function(TEST.astype(np.float64))
    )
    found = probe_fits.logistic(TRAIN, CLASSES, TEST, 4)
    # Scores of all classes may be larger by one number.
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=2e-3)


def test_votes_are_those_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    theirs = neighbors.KNeighborsClassifier(
        7, metric="cosine", algorithm="brute", weights=lambda far: np.exp(-far / 0.07)
    ).fit(TRAIN, CLASSES)
    scores = probe_fits.votes(TRAIN, CLASSES, TEST, 7, 4)
    np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), theirs.predict_proba(TEST), rtol=1e-3, atol=1e-5)


def test_attention_finds_the_token_that_tells():
    """One of eight tokens has the class, in a place of its own for each image, and says so by one feature; the others are noise that their
    mean drowns in."""
    rng = np.random.default_rng(1)

    def drawn(classes):
        tokens = rng.normal(size=(len(classes), 8, 12)).astype(np.float32)
        tokens[..., 0] = 0
        place = rng.integers(0, 8, len(classes))
        tokens[np.arange(len(classes)), place] = MIDDLES[classes]
        tokens[np.arange(len(classes)), place, 0] = 4
        return tokens

    train, test = np.arange(200) % 4, np.arange(100) % 4
    one, other = drawn(train), drawn(test)
    attended = probe_fits.logistic(one, train, other, 4).argmax(1)
    averaged = probe_fits.logistic(one.mean(1), train, other.mean(1), 4).argmax(1)
    assert np.mean(attended == test) > 0.95 > 0.9 > np.mean(averaged == test)


def test_features_that_do_not_vary_stay_finite():
    train, test = probe_fits.standardized(np.ones((3, 2), np.float32), np.ones((2, 2), np.float32))
    assert not train.any() and not test.any()
