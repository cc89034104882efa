"""What trains moves, what is frozen does not change by a bit, and freezing costs nothing."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from tests.helpers import EVERYTHING, SPEC, optimizer_config, random_batch, train

LORA = Lora(4, 8.0, False, 0.0, ("blocks/attention/(query|value)",))
CASES = {
    "full": (None, EVERYTHING),
    "last block": (None, (("blocks[-1]/.*", 1.0), ("final_norm/.*", 1.0), (".*", 0.0))),
    "middle layer": (None, (("blocks[1]/mlp/.*", 1.0), (".*", 0.0))),
    "lora": (LORA, ((".*/adapter/.*", 1.0), (".*", 0.0))),
}


MARKS = {"full": pytest.mark.heavy, "last block": pytest.mark.slow, "middle layer": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS[n]) if n in MARKS else n for n in CASES])
def test_trainable_leaves_move_and_frozen_ones_are_bit_identical(name):
    adapter, rates = CASES[name]
    got = train(adapter=adapter, rates=rates)
    start = flatten(_all(got.start))
    end = flatten(_all(got.state))
    for leaf in got.partition.leaves:
        same = np.array_equal(start[leaf.path], end[leaf.path])
        # A step must move every layer of a trainable leaf, not only one of them.
        if leaf.trains and leaf.path.startswith("blocks"):
            moved = [not np.array_equal(a, b) for a, b in zip(start[leaf.path], end[leaf.path])]
            assert all(moved), leaf.path
        assert same != leaf.trains, leaf.path


def _all(state):
    tree = {}
    for part in (state.trainable, state.frozen):
        for path, array in flatten(part).items():
            node = tree
            *parents, last = path.split("/")
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = array
    return tree


@pytest.mark.parametrize("name", ["last block", pytest.param("lora", marks=pytest.mark.slow)])
def test_freezing_equals_optax_masks_over_all_parameters(name):
    """Differentiating the trainable part gives what Optax's masks give when everything is differentiated."""
    adapter, rates = CASES[name]
    model = Transformer(SPEC, adapter)
    params = model.init(jax.random.key(0))
    partition = Partition.of(params, rates)
    batch, objective = random_batch(0), CausalLM()

    def gradient(tree, build):
        def mean(t):
            loss = objective.loss(model, build(t), batch)
            return loss.total / loss.weight

        return jax.jit(jax.grad(mean))(tree)

    # Whole parameters in stored form, so that layers can be masked one by one.
    trainable, frozen = partition.split(params)
    stored = _all(types.SimpleNamespace(trainable=trainable, frozen=frozen))
    mask = partition.mask()
    adamw = optax.adamw(1e-2, b2=0.95, weight_decay=0.1)
    labels = jax.tree.map(lambda m: "train" if m else "freeze", mask)
    theirs = optax.multi_transform({"train": adamw, "freeze": optax.set_to_zero()}, labels)
    updates, _ = theirs.update(gradient(stored, lambda t: partition.merge(t, {})), theirs.init(stored), stored)
    ours, _ = adamw.update(gradient(trainable, lambda t: partition.merge(t, frozen)), adamw.init(trainable), trainable)
    updates, ours = flatten(updates), flatten(ours)
    for leaf in partition.leaves:
        if leaf.trains:
            # Adam divides by the root of tiny second moments, which magnifies rounding of gradients near zero.
            np.testing.assert_allclose(ours[leaf.path], updates[leaf.path], atol=2e-4)
        else:
            assert not np.any(updates[leaf.path]) and leaf.path not in ours


def test_frozen_leaves_have_no_moments_and_no_part_in_the_norm():
    got = train(rates=CASES["last block"][1])
    moments = sum(a.nbytes for a in jax.tree.leaves(got.state.optimizer))
    assert moments < 2.1 * sum(leaf.bytes for leaf in got.partition.leaves if leaf.trains)
    everything = train(rates=EVERYTHING)
    assert got.grad_norms[0] < 0.9 * everything.grad_norms[0]


def test_a_frozen_first_stack_has_no_backward_pass():
    """The compiled gradient of the last of three layers costs less than that of all, by at least the two layers'
    backward passes (two thirds of the work, of which a backward pass is two thirds)."""

    def flops(rates):
        model = Transformer(SPEC)
        params = model.init(jax.random.key(0))
        partition = Partition.of(params, rates)
        trainable, frozen = partition.split(params)

        def loss(t):
            merged = partition.merge(t, frozen)
            x = Transformer(SPEC.__class__(**{**SPEC.__dict__, "scan": False})).hidden(
                merged, random_batch(0)["inputs"]
            )
            return jnp.sum(x)

        return jax.jit(jax.grad(loss)).lower(trainable).compile().cost_analysis()["flops"]

    assert flops(CASES["last block"][1]) < 0.65 * flops(EVERYTHING)


@pytest.mark.heavy
def test_rates_multiply_the_step():
    halved = (("blocks[0]/.*", 0.5), (".*", 1.0))
    options = dict(optimizer=optimizer_config(weight_decay=0.0), steps=1, dropout=0.0)
    one, half = train(**options), train(rates=halved, **options)

    def moved(got):
        kernel = lambda state: np.asarray(state.trainable["blocks"]["mlp"]["up"]["kernel"])  # noqa: E731
        return kernel(got.state) - kernel(got.start)

    np.testing.assert_allclose(moved(half)[0], 0.5 * moved(one)[0], atol=1e-7)
    np.testing.assert_allclose(moved(half)[1:], moved(one)[1:], atol=1e-7)


def test_everything_frozen_is_an_error():
    with pytest.raises(UserError, match="nothing would train"):
        Partition.of(Transformer(SPEC).shapes(), ((".*", 0.0),))


def test_a_rate_must_be_a_number():
    with pytest.raises(UserError, match="rate of 'embed/.\\*' is -1"):
        Partition.of(Transformer(SPEC).shapes(), (("embed/.*", -1), (".*", 1)))


def test_the_table_counts_every_parameter_once():
    partition = Partition.of(Transformer(SPEC).shapes(), CASES["last block"][1])
    total = sum(int(np.prod(a.shape)) for a in jax.tree.leaves(Transformer(SPEC).shapes()))
    assert sum(row["parameters"] for row in partition.table()) == total
    assert partition.count(True) + partition.count(False) == total
