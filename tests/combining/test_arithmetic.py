"""The formulas against references that are written from the papers, number by number, and their properties."""

import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.combining import arithmetic, scoring
from ptft_jax.errors import UserError


def arrays(count=3, shape=(4, 5, 6), dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for _ in range(count)]


def test_the_ends_of_the_line_are_the_models():
    parent, child = arrays(2)
    parent[0, 0, 0], child[0, 0, 1] = -0.0, -0.0
    for alpha, expected in ((0.0, parent), (1.0, child)):
        found = arithmetic.interpolate(parent, child, alpha)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    exact = 0.75 * parent.astype(np.float64) + 0.25 * child
    np.testing.assert_array_equal(arithmetic.interpolate(parent, child, 0.25), exact.astype(np.float32))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_mean_of_equal_models_is_that_model(count):
    one = arrays(1)[0]
    one[0, 0, 0] = -0.0
    found = arithmetic.mean([one] * count)
    np.testing.assert_array_equal(found.view(np.uint32), one.view(np.uint32))


def test_the_arc_between_two():
    """Of two vectors of one length the arc has that length, and equal steps of alpha are equal angles (closed form in the plane)."""
    turn = lambda degrees: 2 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])  # noqa: E731
    for alpha in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(arithmetic.slerp(turn(10), turn(110), alpha), turn(10 + 100 * alpha), atol=1e-12)
    first, second = arrays(2)
    np.testing.assert_array_equal(arithmetic.slerp(first, second, 0.0), first)
    np.testing.assert_allclose(arithmetic.slerp(first, 3 * first, 0.5), 2 * first, rtol=1e-6)
    np.testing.assert_allclose(arithmetic.slerp(first, -first, 0.25), 0.5 * first, rtol=1e-6)  # no arc is the one
    zero = np.zeros_like(first)
    np.testing.assert_array_equal(arithmetic.slerp(zero, zero, 0.5), zero)
    np.testing.assert_allclose(arithmetic.slerp(zero, first, 0.5), first / 2)


def test_a_weighted_mean():
    a, b, c = arrays()
    expected = (2 * a.astype(np.float64) - 0.5 * b + c.astype(np.float64)) / 2.5
    np.testing.assert_array_equal(arithmetic.mean([a, b, c], (2.0, -0.5, 1.0)), expected.astype(np.float32))
    np.testing.assert_array_equal(arithmetic.mean([a, b], (2.0, 2.0)), arithmetic.mean([a, b]))


def test_sums_are_rounded_once():
    big, small = np.float32(1), np.float32(2**-24)  # lost in float32 one by one, not together
    assert arithmetic.mean([np.full(1, big), *[np.full(1, small)] * 3]) * 4 == np.float32(1 + 3 * 2.0**-24)
    small = [array.astype(jnp.bfloat16) for array in arrays(2)]
    found = arithmetic.mean(small)
    expected = (small[0].astype(np.float64) + small[1].astype(np.float64)) / 2
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16


def test_task_vectors_add_and_take_away():
    base, a, b = arrays()
    np.testing.assert_array_equal(arithmetic.task(base, [a], [1.0]), a)  # float64 holds these differences exactly
    np.testing.assert_array_equal(arithmetic.task(base, [a, b], [0.0, 0.0]), base)
    expected = base.astype(np.float64) + 0.5 * (a.astype(np.float64) - base) - 2 * (b.astype(np.float64) - base)
    np.testing.assert_array_equal(arithmetic.task(base, [a, b], [0.5, -2.0]), expected.astype(np.float32))


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.9, 1.0])
def test_trimming_keeps_the_largest(density):
    one = np.random.default_rng(0).normal(size=(7, 31)).astype(np.float32)
    found = arithmetic.trim(one, density)
    kept = int(density * one.size)
    order = sorted(range(one.size), key=lambda i: -abs(one.flat[i]))
    assert set(np.flatnonzero(found)) == set(order[:kept])
    np.testing.assert_array_equal(found.flat[order[:kept]], one.flat[order[:kept]])


def test_a_threshold_of_parts_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    parts = [rng.normal(scale=10.0**k, size=n).astype(np.float32) for k, n in ((-8, 50), (0, 33), (3, 17))]
    parts.append(np.zeros(9, np.float32))
    whole = np.sort(np.abs(np.concatenate(parts)))[::-1]
    for density in (0.01, 0.1, 0.33, 0.5, 0.77, 1.0):
        assert arithmetic.threshold(lambda: iter(parts), density) == whole[int(density * whole.size) - 1]
    assert arithmetic.threshold(lambda: iter(parts), 0.001) == float("inf")


def ties_by_the_paper(vectors, weights, density, sign):
    """Algorithm 1 of Yadav et al. 2023, a parameter at a time."""
    size = vectors[0].size
    trimmed = []
    for one in vectors:
        order = sorted(range(size), key=lambda i: -abs(one[i]))[: int(density * size)]
        trimmed.append([one[i] if i in order else 0.0 for i in range(size)])
    out = []
    for p in range(size):
        votes = sum((np.sign(t[p]) if sign == "frequency" else float(t[p])) for t in trimmed)
        elected = 1 if votes >= 0 else -1
        chosen = [w * float(t[p]) for t, w in zip(trimmed, weights) if np.sign(t[p]) == elected]
        out.append(sum(chosen) / len(chosen) if chosen else 0.0)
    return np.array(out)


@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.2, 0.6, 1.0])
def test_ties(density, sign):
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=83).astype(np.float32) for _ in range(4)]
    weights = (1.0, 0.3, -0.5, 2.0)
    found = arithmetic.merge("ties", [arithmetic.trim(v, density) for v in vectors], weights, sign)
    np.testing.assert_allclose(found, ties_by_the_paper(vectors, weights, density, sign), rtol=1e-12, atol=0)


def test_ties_of_one_vector_is_that_vector():
    one = np.random.default_rng(0).normal(size=50).astype(np.float32)
    np.testing.assert_array_equal(arithmetic.ties([one], (1.0,)), one)


def test_dare_keeps_the_expectation_and_depends_on_its_place_alone():
    one = np.ones((200, 300), np.float32)
    found = arithmetic.drop(one, 0.1, 3, "blocks/a", 0)
    assert set(np.unique(found)) == {np.float32(0), np.float32(1) / np.float32(0.1)}
    # The share kept is a mean of 60,000 draws: 5 of its standard deviations.
    assert abs((found != 0).mean() - 0.1) < 5 * (0.09 / one.size) ** 0.5
    np.testing.assert_array_equal(found, arithmetic.drop(one, 0.1, 3, "blocks/a", 0))
    for other in ((4, "blocks/a", 0), (3, "blocks/b", 0), (3, "blocks/a", 1)):
        assert not np.array_equal(found, arithmetic.drop(one, 0.1, *other))
    np.testing.assert_array_equal(arithmetic.drop(one, 1.0, 0), one)


def test_layers_of_a_stack_are_taken_one_by_one():
    one = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    trim = lambda _, two: arithmetic.trim(two[0], 0.25)  # noqa: E731
    found = arithmetic.by_layer("blocks/mlp/up/kernel", [one], trim)
    assert (found != 0).sum((1, 2)).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(arithmetic.by_layer("embed/kernel", [one], trim), arithmetic.trim(one, 0.25))


def test_points_of_a_curve():
    assert scoring.points("0,0.1,...,1") == tuple(round(i / 10, 12) for i in range(11))
    assert scoring.points("0, 0.5 ,1") == (0.0, 0.5, 1.0)
    for bad in ("0,0.3,...,1", "1,0", "0,a", "0,2", "0,0,1", "...", "0,0,...,1", ""):
        with pytest.raises(UserError, match="--curve="):
            scoring.points(bad)
