"""Schedules at their corners; optimizers against Optax's own assembled ones."""

import itertools
import types

import jax
import numpy as np
import optax
import pytest

from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers, schedules
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import EVERYTHING, SPEC, optimizer_config


@pytest.mark.parametrize(
    "name, expected",
    [  # at steps 0, 10 (the top), 55 (half way), 100
        ("constant", [1 / 11, 1, 1, 1]),
        ("linear", [1 / 11, 1, 0.55, 0.1]),
        ("cosine", [1 / 11, 1, 0.55, 0.1]),
        ("wsd", [1 / 11, 1, 1, 0.1]),
        ("rsqrt", [1 / 11, 1, (10 / 55) ** 0.5, 0.1**0.5]),
    ],
)
def test_schedules(name, expected):
    schedule = schedules.build(name, 2.0, warmup=10, total=100, end_ratio=0.1, decay_fraction=0.2)
    got = [float(schedule(step)) / 2.0 for step in (0, 10, 55, 100)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    rising = [float(schedule(step)) for step in range(11)]
    assert all(b > a for a, b in zip(rising, rising[1:]))


def test_wsd_goes_down_in_its_last_part_only():
    schedule = schedules.build("wsd", 1.0, warmup=10, total=100, end_ratio=0.0, decay_fraction=0.2)
    assert float(schedule(79)) == 1.0 and float(schedule(90)) == pytest.approx(0.5) and float(schedule(100)) == 0.0


def test_wsd_comes_down_whatever_the_warm_up_leaves():
    """By the definition: up to the peak, along it, and down in a straight line that ends at the last step."""
    for total, warmup, fraction in itertools.product([2, 3, 5, 10, 40], [0, 1, 3, 8, 9, 30, 38], [0.01, 0.2, 0.5, 1.0]):
        if total - warmup < 2:
            continue
        schedule = schedules.build("wsd", 2.0, warmup=warmup, total=total, end_ratio=0.1, decay_fraction=fraction)
        rates = np.array([float(schedule(step)) for step in range(total + 1)])
        down = max(min(round(total * fraction), total - warmup), 2)
        rise = 2.0 * (1 + np.arange(warmup)) / (warmup + 1)
        line = 2.0 - 1.8 * np.arange(1, down + 1) / down
        expected = np.concatenate([rise, np.full(total + 1 - warmup - down, 2.0), line])
        np.testing.assert_allclose(rates, expected, rtol=1e-5)
        assert rates[total - 1] < 2.0, "the last update has a lower rate"


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            dict(schedule="wsd", warmup_steps=9),
            "warmup_steps = 9: of training.steps = 10 it leaves no update .* at most 8",
        ),
        (dict(schedule="wsd", warmup_steps=10), "at most 8, or schedule='constant'"),
        (dict(schedule="slanted_triangular", cut_frac=0.95), "cut_frac = 0.95: the rate would rise over 9 of .* = 10"),
    ],
)
def test_a_schedule_that_never_comes_down_is_refused(fields, words):
    config = types.SimpleNamespace(learning_rate=1.0, end_ratio=0.1, decay_fraction=0.2, ratio=32.0, **fields)
    with pytest.raises(UserError, match=words):
        schedules.from_config(config, 10)
    enough = schedules.from_config(config, 40 if fields["schedule"] == "wsd" else 60)
    last = 39 if fields["schedule"] == "wsd" else 59
    assert float(enough(last)) < 0.95


def _tree():
    params = Transformer(SPEC).init(jax.random.key(0))
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
    return params, grads, Partition.of(params, EVERYTHING)


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("adamw", lambda mask: optax.adamw(0.01, 0.9, 0.95, weight_decay=0.1, mask=mask)),
        ("lion", lambda mask: optax.lion(0.01, 0.9, 0.95, weight_decay=0.1, mask=mask)),
        ("sgd", lambda mask: optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1, mask), optax.scale(-0.01))),
    ],
)
def test_equal_to_optax(name, theirs):
    params, grads, partition = _tree()
    ours = optimizers.build(optimizer_config(name=name, clip_norm=0), optax.constant_schedule(0.01), partition)
    mask = lambda tree: jax.tree_util.tree_map_with_path(  # noqa: E731
        lambda path, _: path[-1].key not in ("bias", "scale"), tree
    )
    theirs = theirs(mask)
    mine, other = params, params
    mine_state, other_state = ours.init(params), theirs.init(params)
    for _ in range(3):
        updates, mine_state = ours.update(grads, mine_state, mine)
        mine = optax.apply_updates(mine, updates)
        updates, other_state = theirs.update(grads, other_state, other)
        other = optax.apply_updates(other, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mine, other)


def test_muon_orthogonalises_kernels_and_adam_does_the_rest():
    params, grads, partition = _tree()
    config = optimizer_config(name="muon", clip_norm=0, weight_decay=0)
    chain = optimizers.build(config, optax.constant_schedule(1.0), partition)
    updates, _ = chain.update(grads, chain.init(params), params)
    flat = flatten(updates)
    for layer in np.asarray(flat["blocks/mlp/up/kernel"]):
        values = np.linalg.svd(layer, compute_uv=False)
        # Five Newton-Schulz steps bring singular values to 1 within about 0.3; times 0.2 * sqrt(the larger side).
        np.testing.assert_allclose(values / (0.2 * 128**0.5), 1.0, atol=0.35)
    adam = optax.scale_by_adam(0.9, 0.95)
    theirs, _ = adam.update(grads, adam.init(params), params)
    np.testing.assert_allclose(flat["embed/tokens/embedding"], -theirs["embed"]["tokens"]["embedding"], rtol=1e-4)


def test_how_far_muon_is_from_its_authors_form():
    """As docs/training.md says. Theirs by numpy: an average that is not corrected, Nesterov's step, five Newton-Schulz steps."""
    path, rng = "blocks/mlp/up/kernel", np.random.default_rng(0)
    grads = rng.normal(size=(60, 64, 32)).astype(np.float32)

    def orthogonal(x):
        x = x.T / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T

    params = unflatten({path: grads[:1]})
    config = optimizer_config(name="muon", momentum=0.95, clip_norm=0, weight_decay=0)
    chain = optimizers.build(config, optax.constant_schedule(1.0), Partition.of(params, EVERYTHING))
    state, update, momentum, apart = chain.init(params), jax.jit(chain.update), 0.0, []
    for grad in grads:
        updates, state = update(unflatten({path: grad[None]}), state, params)
        momentum = 0.95 * momentum + 0.05 * grad
        theirs = 0.2 * 8.0 * orthogonal(0.05 * grad + 0.95 * momentum)
        apart.append(np.linalg.norm(-flatten(updates)[path][0] - theirs) / np.linalg.norm(theirs))
    assert apart[0] < 1e-5 and 0.08 < apart[1] < 0.16 and apart[9] == pytest.approx(0.03, abs=0.01) and apart[59] < 1e-3


def test_clipping_bounds_the_norm():
    params, grads, partition = _tree()
    config = optimizer_config(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.5)
    chain = optimizers.build(config, optax.constant_schedule(1.0), partition)
    updates, _ = chain.update(grads, chain.init(params), params)
    assert float(optax.global_norm(updates)) == pytest.approx(0.5, rel=1e-5)


def test_decay_rules_can_name_layers():
    params, grads, partition = _tree()
    zero = jax.tree.map(lambda g: g * 0, grads)
    rules = (("blocks[0]/mlp/up/kernel", 1.0), (".*", 0.0))
    chain = optimizers.build(optimizer_config(name="sgd", decay_rules=rules), optax.constant_schedule(1.0), partition)
    updates, _ = chain.update(zero, chain.init(params), params)
    kernel, moved = flatten(params)["blocks/mlp/up/kernel"], flatten(updates)["blocks/mlp/up/kernel"]
    np.testing.assert_allclose(moved[0], -0.1 * kernel[0], rtol=1e-6)
    assert not np.any(moved[1:]) and not np.any(flatten(updates)["embed/tokens/embedding"])


def test_start_decay_in_closed_form():
    """Plain gradient descent on slope g: the distance d to the start goes to -(g rate + ...) geometrically."""
    shapes = Transformer(SPEC).shapes()
    partition = Partition.of(shapes, EVERYTHING)
    config = optimizer_config(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    rate, strength, slope = 0.1, 0.5, 2.0
    chain = optimizers.build(config, lambda _: rate, partition, start_decay=strength)
    start, _ = partition.split(Transformer(SPEC).init(jax.random.key(0)))
    params, state = start, chain.init(start)
    for _ in range(5):
        slopes = jax.tree.map(lambda p: np.full(p.shape, slope, p.dtype), params)
        updates, state = chain.update(slopes, state, params, anchor=start)
        params = optax.apply_updates(params, updates)
    # d <- d - rate * (slope + strength * d), from d = 0
    distance = -slope / strength * (1 - (1 - rate * strength) ** 5)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(start)):
        np.testing.assert_allclose(a - b, distance, rtol=1e-4)  # float32 differences of numbers near 1


def test_start_decay_does_not_pass_through_the_direction():
    """Adam divides a gradient by its size; decoupled decay pulls by distance."""
    partition = Partition.of(Transformer(SPEC).shapes(), EVERYTHING)
    start, _ = partition.split(Transformer(SPEC).init(jax.random.key(0)))
    config = optimizer_config(weight_decay=0.0, clip_norm=0.0)
    chain = optimizers.build(config, lambda _: 0.1, partition, start_decay=1e-3)
    away, nothing = jax.tree.map(lambda p: p + 1.0, start), jax.tree.map(np.zeros_like, start)
    updates, _ = chain.update(nothing, chain.init(start), away, anchor=start)
    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -1e-4, rtol=1e-4)


def test_the_slanted_triangle_is_that_of_its_authors():
    """Howard & Ruder 2018, equation 3, line by line."""
    peak, total, cut_frac, ratio = 0.01, 1000, 0.1, 32
    schedule = schedules.slanted_triangular(peak, total, cut_frac, ratio)
    cut = int(total * cut_frac)
    for t in (0, 1, 50, 99, 100, 101, 550, 999):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert float(schedule(t)) == pytest.approx(peak * (1 + p * (ratio - 1)) / ratio, rel=1e-5)
    # Where their rounding of `cut` would take it below 0.
    short = schedules.slanted_triangular(peak, 19, cut_frac, ratio)
    assert float(short(18)) == pytest.approx(peak / ratio)
    config = types.SimpleNamespace(schedule="slanted_triangular", learning_rate=peak, cut_frac=0.25, ratio=4.0)
    assert float(schedules.from_config(config, 8)(2)) == pytest.approx(peak)


PHASES = (("first", (("blocks[-1]/.*", 1.0), (".*", 0.0))), ("all", EVERYTHING))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_opens_late_has_its_first_step_then(name):
    """Its direction is that of an optimizer that was made then; what was open before goes on."""
    params, grads, _ = _tree()
    partition = Partition.of(params, EVERYTHING, phases=PHASES)
    config = optimizer_config(name=name, b2=0.999, clip_norm=0, weight_decay=0)
    first, second = (optimizers.build(config, lambda _: 1.0, partition, phase=k) for k in (0, 1))
    params, grads = partition.split(params)[0], partition.split(grads)[0]
    state = first.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(second.init(params))
    for _ in range(3):
        updates, state = first.update(grads, state, params)
        for path, update in flatten(updates).items():
            assert bool(np.any(update)) == (path not in partition.frozen_in(0)), path
    updates, state = second.update(grads, state, params)
    fresh, _ = second.update(grads, second.init(params), params)
    frozen = partition.frozen_in(0)
    assert frozen
    for path, update in flatten(updates).items():
        if path in frozen:
            np.testing.assert_array_equal(update, flatten(fresh)[path], err_msg=path)
