"""Decoupled decay to zero and to the start, against a recursion in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.optim import optimizers
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.regularization.regularizers import Regularization
from tests.helpers import optimizer_config, train

SLOPE = 2.0
PARAMS = {"a/kernel": np.float32([[1.0, -2.0], [0.5, 3.0]]), "b/bias": np.float32([4.0, -1.0])}
RATES = (("b/.*", 16.0), (".*", 1.0))  # as LoRA+ has them
DECAYED = (("b/.*", 0.0), (".*", 1.0))


def trained(start, moved, *, decay=0.0, strength=0.0, rate=0.1, slope=SLOPE, steps=5, schedule=None, rates=RATES):
    """Parameters by path after steps of plain gradient descent on a constant slope."""
    config = optimizer_config(name="sgd", momentum=0.0, weight_decay=decay, clip_norm=0.0, decay_rules=DECAYED)
    partition = Partition.of(unflatten(start), rates)
    chain = optimizers.build(config, schedule or (lambda _: rate), partition, start_decay=strength)
    params, anchor = unflatten(moved), unflatten(start)
    state = chain.init(params)
    for _ in range(steps):
        slopes = jax.tree.map(lambda p: np.full(p.shape, slope, p.dtype), params)
        updates, state = chain.update(slopes, state, params, anchor=anchor)
        params = optax.apply_updates(params, updates)
    return flatten(params)


def by_hand(start, moved, *, decay, strength, rate=0.1, slope=SLOPE, steps=5):
    found = {}
    for path, first in start.items():
        own, multiplier = np.float64(moved[path]), 16.0 if path.startswith("b") else 1.0
        to_zero, to_start = rate * multiplier * (0.0 if path.startswith("b") else decay), rate * multiplier * strength
        over = max(to_zero + to_start, 1.0)
        for _ in range(steps):
            own = own - to_zero / over * own - to_start / over * (own - first) - rate * multiplier * slope
        found[path] = own
    return found


@pytest.mark.parametrize("decay, strength", list(itertools.product([0.0, 0.5, 40.0], [0.0, 8.0, 3000.0])))
def test_the_recursion(decay, strength):
    moved = {p: a + 1 for p, a in PARAMS.items()}
    found = trained(PARAMS, moved, decay=decay, strength=strength)
    for path, array in by_hand(PARAMS, moved, decay=decay, strength=strength).items():
        np.testing.assert_allclose(found[path], array, rtol=2e-5, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("strength", [10.0, 25.0, 3000.0, 1e30])
def test_at_most_all_of_the_way_to_the_start(strength):
    """Without a slope the parameters are the start after one update; with one, as far away as that update's step."""
    moved = {p: a + 1 for p, a in PARAMS.items()}
    for path, array in trained(PARAMS, moved, strength=strength, slope=0.0, steps=1).items():
        np.testing.assert_allclose(array, PARAMS[path], rtol=1e-6)
    for path, array in trained(PARAMS, moved, strength=strength, steps=7, rates=((".*", 1.0),)).items():
        np.testing.assert_allclose(array, PARAMS[path] - 0.1 * SLOPE, rtol=1e-5)


def test_the_cap_is_that_of_the_steps_own_rate():
    """Warming up: shares of 0.5, 1 and 1 at rates of 0.05, 0.1 and 0.2."""
    rates = jnp.asarray([0.05, 0.1, 0.2])
    moved = {p: a + 1 for p, a in PARAMS.items()}
    options = dict(strength=10.0, schedule=lambda step: rates[step], rates=((".*", 1.0),))
    distance = 1.0
    for steps, (rate, share) in enumerate([(0.05, 0.5), (0.1, 1.0), (0.2, 1.0)], 1):
        distance = (1 - share) * distance - rate * SLOPE
        found = trained(PARAMS, moved, steps=steps, **options)["b/bias"]
        np.testing.assert_allclose(found - PARAMS["b/bias"], distance, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.heavy
def test_more_strength_holds_harder():
    """In training by Adam at a rate of 0.01: from none to thirty thousand times the distance a step."""
    distances = []
    for strength in (0.0, 3.0, 30.0, 100.0, 250.0, 3e6):
        options = dict(steps=8, optimizer=optimizer_config(weight_decay=0.0), layers=2, ema=0.0, dropout=0.0)
        got = train(regularization=Regularization(start_decay=strength, l2_sp=1e-12), **options)
        pairs = zip(jax.tree.leaves(got.state.trainable), jax.tree.leaves(got.start.trainable))
        distances.append(sum(float(np.sum((np.asarray(a) - b) ** 2)) for a, b in pairs) ** 0.5)
        assert np.all(np.isfinite(got.losses))
    assert all(more <= less * (1 + 1e-3) for less, more in zip(distances, distances[1:])), distances
    assert distances[1] < 0.99 * distances[0] and distances[-1] < 0.5 * distances[0]
