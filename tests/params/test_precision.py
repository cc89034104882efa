"""What is kept in which dtype, and rounding that loses nothing on average."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from ptft_jax.adapters.base import is_added
from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers
from ptft_jax.params import precision, recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from ptft_jax.regularization.regularizers import Regularization
from ptft_jax.runs import state as states
from ptft_jax.training import step as steps
from tests.helpers import EVERYTHING, OBJECTIVE, SPEC, optimizer_config, random_batch, repeats, train

EVERY_DRAW = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize("value", [1.0, 1 + 2**-20, -0.3, 1e-30, -6.1e-5, 3.0e38, 1.9921875, 0.0, 1.17e-38, 2.0**-140])
def test_the_mean_over_every_draw_is_the_number_itself(value):
    value = np.float32(value)
    rounded = np.float64(jax.jit(precision.stochastic)(np.full(2**16, value), EVERY_DRAW))
    assert np.mean(rounded) == np.float64(value), "exact: sums of 2^16 bfloat16 numbers of two values fit into float64"
    # Only its two neighbors: what it is cut to, and the next one away from zero; itself where it is one of them.
    cut = np.frombuffer(np.float32(value).tobytes(), np.uint16)[1:].view(ml_dtypes.bfloat16)
    after = np.frombuffer(np.float32(value).tobytes(), np.uint16)[1:] + np.uint16(1)
    neighbors = {float(cut[0]), float(after.view(ml_dtypes.bfloat16)[0])}
    assert set(rounded) <= neighbors and (len(set(rounded)) == 1) == (float(cut[0]) == float(value))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_so(value):
    found = np.float32(precision.stochastic(np.full(2**16, np.float32(value)), EVERY_DRAW))
    np.testing.assert_array_equal(found, np.float32(value))


def test_changes_far_below_the_last_digit_add_up():
    """400 changes of 1e-5 to numbers near 1, where bfloat16 has steps of 2^-7: to the nearest, nothing would ever move."""
    count, change, number = 400, 1e-5, 4096
    state = {"a": {"w": jnp.ones(number, jnp.bfloat16)}}

    @jax.jit
    def moved(state, key):
        return precision.stored(jax.tree.map(lambda a: a + change, precision.wide(state)), state, key)

    for key in jax.random.split(jax.random.key(3), count):
        state = moved(state, key)
    got = np.float64(state["a"]["w"])
    assert state["a"]["w"].dtype == jnp.bfloat16
    # Each step goes up by 2^-7 with probability p = change * 2^7: the mean of a binomial, and its spread.
    p = change * 2**7
    spread = 2**-7 * (count * p * (1 - p) / number) ** 0.5
    assert abs(got.mean() - (1 + count * change)) < 5 * spread
    assert got.std() == pytest.approx(2**-7 * (count * p * (1 - p)) ** 0.5, rel=0.1)
    assert ml_dtypes.bfloat16(1 + change) == 1


def test_draws_do_not_depend_on_layout_and_differ_by_leaf_and_step():
    new = {name: jnp.full((8, 16), 1 + 2**-9, jnp.float32) for name in ("a", "b")}
    old = {name: jnp.zeros((8, 16), jnp.bfloat16) for name in new}
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("x"))
    made = jax.jit(precision.stored)
    one = made(new, old, jax.random.key(1))
    eight = made(*jax.device_put((new, old), split), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    assert np.any(one["a"] != one["b"]) and np.any(one["a"] != made(new, old, jax.random.key(2))["a"])


# What a run keeps in what.

LORA = Lora(2, 4.0, False, 0.0, ("blocks/attention/(query|value)",))
PISSA = dataclasses.replace(LORA, init="pissa")
ON_ONE_LAYER = (("blocks[-1]/.*", 1.0), (".*", 0.0))
ADDED = (*PISSA.rates, (".*", 0.0))


@pytest.mark.parametrize(
    "state, param, adapter, rates, expected",
    [  # trained base parameters, frozen ones, added and trained, added and frozen
        ("float32", "float32", None, ON_ONE_LAYER, ("float32", "float32", None, None)),
        ("float32", "bfloat16", None, ON_ONE_LAYER, ("float32", "bfloat16", None, None)),
        ("float32", "bfloat16", PISSA, ADDED, (None, "bfloat16", "float32", "float32")),
        ("bfloat16", "bfloat16", None, ON_ONE_LAYER, ("bfloat16", "bfloat16", None, None)),
        ("bfloat16", "float32", PISSA, ADDED, (None, "float32", "bfloat16", "bfloat16")),
    ],
)
def test_what_is_kept_in_what(state, param, adapter, rates, expected):
    model = Transformer(dataclasses.replace(SPEC, param_dtype=param), adapter)
    partition = Partition.of(model.shapes(), rates, kept=precision.Kept(state, is_added))
    wide = Transformer(SPEC, adapter)
    chain = optimizers.build(optimizer_config(), lambda _: 1e-3, partition)

    def make(key):
        return states.create(*partition.split(wide.init(key)), chain, key, ema=True, anchor=True, fisher=True)

    like = jax.eval_shape(make, jax.random.key(0))
    found = [set() for _ in range(4)]
    for leaf in partition.leaves:
        array = flatten(like.trainable if leaf.trains else like.frozen)[leaf.path]
        assert array.dtype == leaf.dtype
        found[2 * is_added(leaf.source) + (not leaf.trains)].add(array.dtype.name)
    assert found == [set() if name is None else {name} for name in expected]
    moments = like.optimizer[1]
    for tree in (moments.mu, moments.nu, like.ema, like.anchor):
        assert {a.dtype.name for a in jax.tree.leaves(tree)} == {state}
    assert {a.dtype.name for a in jax.tree.leaves(like.fisher)} == {"float32"} and moments.count.dtype == jnp.int32
    # The table of parameters has the bytes that the state has.
    rows = partition.table()
    held = sum(a.dtype.itemsize * a.size for a in jax.tree.leaves((like.trainable, like.frozen)))
    assert sum(row["bytes"] for row in rows) == held
    assert {name for row in rows for name in row["dtype"].split()} == {name for name in expected if name}


def test_statistics_that_have_not_the_shape_of_a_parameter_stay_float32():
    params = {"a": {"kernel": jnp.zeros((128, 256), jnp.bfloat16)}, "b": {"bias": jnp.zeros(3, jnp.bfloat16)}}
    state = precision.narrowed(optax.scale_by_factored_rms().init(precision.wide(params)), params)
    assert state.v["b"]["bias"].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((state.v_row, state.v_col))} == {jnp.dtype("float32")}


NARROW = dict(kept="bfloat16", layers=2)


@pytest.mark.heavy
def test_a_state_in_bfloat16_is_trained_and_stays_in_it():
    """On the whole as in float32, and the same bits again."""
    one, again, reference = train(**NARROW), train(**NARROW), train(layers=2)
    jax.tree.map(np.testing.assert_array_equal, _bits(one.state), _bits(again.state))
    for tree in (one.state.trainable, one.state.ema, one.state.optimizer[1].mu, one.state.optimizer[1].nu):
        assert {a.dtype.name for a in jax.tree.leaves(tree)} == {"bfloat16"}
    # Rounded every step: parameters near 0.02 by 2^-8 of it, and gradients of these. Three steps of 0.01 an entry.
    np.testing.assert_allclose(one.losses, reference.losses, atol=0.02)
    moved = [np.float32(s.trainable["blocks"]["mlp"]["up"]["kernel"]) for s in (one.state, reference.state)]
    start = np.float32(one.start.trainable["blocks"]["mlp"]["up"]["kernel"])
    assert np.corrcoef((moved[0] - start).ravel(), (moved[1] - start).ravel())[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.heavy
def test_what_is_shut_in_a_phase_is_not_rounded():
    phased = train(phases=("last:1", "all"), **NARROW | dict(steps=1))
    for path, array in flatten(phased.state.trainable).items():
        assert np.array_equal(array, flatten(phased.start.trainable)[path]) == (
            path in phased.partition.frozen_in(0)
        ), path


def _bits(state):
    return [np.asarray(a) for a in jax.tree.leaves((state.trainable, state.frozen, state.optimizer, state.ema))]


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    "setting",
    repeats(
        [dict(devices=8, fsdp=4, micro=2), dict(devices=4, kind="pmap"), dict(micro=4)],
        dict(devices=8, fsdp=4, micro=2),
    ),
    ids=str,
)
def test_a_state_in_bfloat16_under_every_program(setting):
    """The same draws; sums in another order tip few of them: those of numbers whose draw lies within rounding of its edge. Keys'
    biases change no attention: their gradients are rounding alone."""
    options = {**NARROW, "steps": 1, "optimizer": optimizer_config(name="sgd", momentum=0.0), "ema": 0.0}
    one, other = train(**options), train(**options, **setting)
    theirs = flatten(other.state.trainable)
    mine = {p: np.asarray(a) for p, a in flatten(one.state.trainable).items() if not p.endswith("key/bias")}
    different = sum(int(np.sum(array != np.asarray(theirs[path]))) for path, array in mine.items())
    assert different <= 1e-3 * sum(a.size for a in mine.values())


# The fixed point of a step.


def the_check(chain, *, regularization=None, kept="float32", average=0.0, spec=SPEC, rates=EVERYTHING):
    model = Transformer(spec)
    partition = Partition.of(model.shapes(), rates, kept=precision.Kept(kept, is_added))
    regularization = regularization or Regularization()
    step = steps.Step(model, OBJECTIVE, partition, chain, 1, average, regularization)
    like = jax.eval_shape(
        lambda k: states.create(*partition.split(model.init(k)), chain, k, bool(average), regularization.anchored),
        jax.random.key(0),
    )
    steps.check(step.train, like, random_batch(0), "a phase")


def test_a_step_that_changes_its_states_form_is_refused():
    narrow = optax.GradientTransformation(
        lambda params: {"mine": params["final_norm"]["scale"]},
        lambda updates, state, params=None, **_: (updates, {"mine": state["mine"].astype(jnp.bfloat16)}),
    )
    with pytest.raises(
        UserError, match=r"(?s)step of a phase .*:\n  optimizer/mine: float32\[32\] becomes bfloat16\[32\]\n"
    ):
        the_check(narrow)
    grows = optax.GradientTransformation(
        lambda params: jnp.zeros(2), lambda updates, state, params=None, **_: (updates, jnp.concatenate([state, state]))
    )
    with pytest.raises(UserError, match=r"optimizer: float32\[2\] becomes float32\[4\]"):
        the_check(grows)


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_returns_the_state_it_was_given(name, kept):
    spec = dataclasses.replace(SPEC, layers=2, param_dtype=kept)
    partition = Partition.of(Transformer(spec).shapes(), recipes.rules("last:1"))
    chain = optimizers.build(optimizer_config(name=name), lambda _: 1e-3, partition, start_decay=0.1)
    the_check(
        chain, regularization=Regularization(l2_sp=0.1, start_decay=0.1), kept=kept, average=0.9, spec=spec,
        rates=recipes.rules("last:1"),
    )  # fmt: skip
