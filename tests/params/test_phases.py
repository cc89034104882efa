"""Phases: what a config may say, and that what is frozen costs nothing and does not change by a bit."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers
from ptft_jax.params import phases, recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.phases import Phase
from ptft_jax.params.rules import flatten
from ptft_jax.regularization.regularizers import Regularization
from ptft_jax.runs import state as states
from ptft_jax.training.step import Step
from tests.helpers import EVERYTHING, OBJECTIVE, SPEC, optimizer_config, random_batch, train


def of(entries=(), every=0, layers=3, steps=100):
    return phases.of_config(types.SimpleNamespace(phases=entries, unfreeze_every=every), layers, steps)


def test_what_a_config_says():
    assert of() == ()
    probe = of(((0, "head"), (30, "all", 0.1)))
    assert probe == (Phase(0, "head"), Phase(30, "all", 0.1))
    assert of(every=10) == (Phase(0, "last:1"), Phase(10, "last:2"), Phase(20, "last:3"), Phase(30, "all"))
    rate = phases.scaled(lambda step: 2.0, probe)
    assert [float(rate(step)) for step in (0, 29, 30, 99)] == pytest.approx([2.0, 2.0, 0.2, 0.2])
    assert [phases.at([0, 30], step) for step in (0, 29, 30, 99)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(entries=((5, "head"),)), "begins at step 5; say with step 0"),
        (dict(entries=((0, "head"), (9, "all"), (9, "head"))), "step 9 comes after step 9: out of order"),
        (dict(entries=((0, "head"), (100, "all"))), "'all' from step 100 on: the run ends after 100 steps"),
        (dict(entries=("head",)), r"'head': expected \(step, recipe\)"),
        (dict(entries=(("head", 0),)), r"expected \(step, recipe\)"),
        (dict(entries=((0, "head", 0.0),)), "the factor of the rate is a number above 0"),
        (dict(entries=((0, "head"),), every=3), "unfreeze_every = 3: config.tune.phases says already"),
        (dict(every=34), "would follow at step 102 of 100; at most 33"),
    ],
)
def test_what_it_may_not_say(given, words):
    with pytest.raises(UserError, match=words):
        of(**given)


def test_recipes_that_name_nothing_that_trains():
    shapes = Transformer(SPEC).shapes()
    with pytest.raises(UserError, match="config.tune.phases = 'haed': expected one of .*did you mean 'head'"):
        Phase(0, "haed").rules(())
    found = [Phase(0, "attention"), Phase(4, "norms")]
    named = [(phase.name, phase.rules(())) for phase in found]
    with pytest.raises(UserError, match="'norms' from step 4 on: trains nothing of what the run trains"):
        Partition.of(shapes, recipes.rules("attention"), phases=named)
    # What no phase names is frozen, with no moments.
    partition = Partition.of(shapes, EVERYTHING, phases=named[:1])
    assert {f.source for f in partition.leaves if f.trains} == {
        f.source for f in Partition.of(shapes, recipes.rules("attention")).leaves if f.trains
    }


PHASED = dict(phases=("last:1", "all"), layers=2, steps=2)


@pytest.fixture(scope="module")
def phased():
    return train(**PHASED)


@pytest.mark.heavy
def test_a_phase_changes_what_it_trains_and_nothing_else(phased):
    ended = train(**PHASED | dict(steps=1))
    frozen = ended.partition.frozen_in(0)
    start, first, last = (flatten(s.trainable) for s in (ended.start, ended.state, phased.state))
    assert frozen and not ended.partition.frozen_in(1)
    for path, array in first.items():
        assert np.array_equal(array, start[path]) == (path in frozen), path
        assert not np.array_equal(last[path], start[path]), path
    # Nor are there moments of it, or a step counted.
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(ended.state.optimizer[1]["01"]))
    # The loss, and the gradient norm that is clipped, are those of a run in which the rest is frozen for good.
    alone = train(rates=recipes.rules("last:1"), steps=1, layers=2)
    # The same sums of the same numbers, cut up otherwise.
    np.testing.assert_allclose(phased.losses[0], alone.losses[0], atol=1e-6)
    np.testing.assert_allclose(phased.grad_norms[0], alone.grad_norms[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    "setting",
    [dict(devices=8, fsdp=4, micro=2), pytest.param(dict(devices=4, kind="pmap"), marks=pytest.mark.slow)],
    ids=str,
)
def test_phases_under_every_program(phased, setting):
    got = train(**PHASED, **setting)
    # As tests/parallel/test_invariance.py.
    np.testing.assert_allclose(got.losses, phased.losses, atol=5e-6, rtol=0)
    np.testing.assert_allclose(got.grad_norms, phased.grad_norms, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    "names", [("all", "last:1", "head"), pytest.param(("last:1", "attention", "all"), marks=pytest.mark.slow)]
)
def test_what_holds_a_run_is_measured_on_all_that_it_trains(names):
    """Half the squared distance of the parameters that a step begins with, also of those that its phase does not move."""
    options = dict(phases=names, layers=2, regularization=Regularization(l2_sp=0.1, ewc=0.1), fisher=3.0, tied=False)
    terms, got = train(**options, steps=3).terms[2], train(**options, steps=2)
    pairs = zip(jax.tree.leaves(got.state.trainable), jax.tree.leaves(got.start.trainable))
    half = sum(float(np.sum((np.asarray(a, np.float64) - b) ** 2)) for a, b in pairs) / 2
    assert terms["l2_sp"] == pytest.approx(half, rel=1e-4) and half > 0
    assert terms["ewc"] == pytest.approx(3 * half, rel=1e-4)


def test_the_compiled_program_of_a_phase_has_no_gradients_of_what_is_shut():
    """FLOPs from the compiler: a forward pass is 1, all gradients are 2 more."""
    model = Transformer(dataclasses.replace(SPEC, layers=2, scan=False, vocab_size=8))
    shapes = model.shapes()
    partition = Partition.of(shapes, EVERYTHING, phases=[(name, recipes.rules(name)) for name in PHASED["phases"]])
    batch = {k: v % 8 if k != "weights" else v for k, v in random_batch(0).items()}
    flops = []
    for phase in range(2):
        chain = optimizers.build(optimizer_config(), lambda _: 1e-3, partition, phase=phase)
        step = Step(model, OBJECTIVE, partition, chain, frozen=partition.frozen_in(phase))
        like = jax.eval_shape(
            lambda k, chain=chain: states.create(*partition.split(model.init(k)), chain, k, False), jax.random.key(0)
        )
        flops.append(jax.jit(step.train).lower(like, batch).compile().cost_analysis()["flops"])
    # A forward pass of two blocks, and two more passes for each that trains: 2 + 2 of 2 + 4.
    assert flops[0] / flops[1] == pytest.approx(4 / 6, abs=0.06)
