"""Recipes name what trains; rates go down with the layers."""

import dataclasses
import functools

import pytest

from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.params import recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.phases import Phase
from ptft_jax.params.rules import flatten
from tests.helpers import EVERYTHING, SPEC

UNTIED = dataclasses.replace(SPEC, tied=False, biases=("qkv", "out", "mlp", "norm"))


@functools.cache
def shapes(spec):
    return Transformer(spec).shapes()


def trains(name, spec=UNTIED, reinitialized=()):
    return {f.path for f in Partition.of(shapes(spec), recipes.rules(name, reinitialized)).leaves if f.trains}


def test_what_each_recipe_trains():
    every = set(flatten(shapes(UNTIED)))
    assert trains("all") == every
    assert trains("head") == {"head/kernel"}
    assert trains("no_embeddings") == {p for p in every if not p.startswith("embed/")}
    assert trains("biases") == {p for p in every if p.endswith("/bias")} and len(trains("biases")) > 6
    assert trains("norms") == {p for p in every if "norm/" in p} and "final_norm/scale" in trains("norms")
    assert trains("attention") == {p for p in every if p.startswith("blocks/attention/")}
    last = trains("last:2")
    assert {p.split("/")[0] for p in last} == {"blocks[1:3]", "final_norm", "head"}
    assert trains("biases", reinitialized=("head/.*",)) == trains("biases") | {"head/kernel"}


CLASSES = dataclasses.replace(
    SPEC, causal=False, norm_placement="post", embedding_norm=True, token_types=2, head="classes", classes=3,
    biases=("qkv", "out", "mlp", "norm"),
)  # fmt: skip


@pytest.mark.parametrize("name", [n.replace("K", "1") for n in recipes.RECIPES])
@pytest.mark.parametrize("spec", [UNTIED, CLASSES], ids=["gpt", "bert"])
def test_a_new_head_trains_beside_every_recipe(name, spec):
    """As in linear-probe-then-fine-tune of a classifier; a model whose norms are behind has no final one."""
    every = set(flatten(shapes(spec)))
    head = {p for p in every if p.startswith("head/")}
    assert head and trains(name, spec, ("head/.*",)) == trains(name, spec) | head
    phase = Phase(0, name)
    partition = Partition.of(shapes(spec), EVERYTHING, phases=[(phase.name, phase.rules(("head/.*",)))])
    assert head <= {f.path for f in partition.leaves if f.trains}


def test_every_recipe_is_named_in_the_error_and_none_is_nameless():
    with pytest.raises(
        UserError, match=r"config.tune.train = 'bias': expected one of all, head, .*did you mean 'biases'"
    ):
        recipes.rules("bias")
    for wrong in ("last:K", "last:0", "last", ""):
        with pytest.raises(UserError, match="expected one of"):
            recipes.rules(wrong)
    with pytest.raises(UserError, match="blocks.-4:./.*: the model has 3 layers"):
        trains("last:4")
    with pytest.raises(UserError, match="head/.*matches no parameter"):
        trains("head", dataclasses.replace(SPEC, tied=True))


def test_rates_go_down_with_the_layers():
    partition = Partition.of(shapes(UNTIED), EVERYTHING, layer_decay=0.5)
    rates = {leaf.path: leaf.rates for leaf in partition.leaves}
    assert rates["head/kernel"] == rates["final_norm/scale"] == (1.0,)
    assert rates["blocks/attention/query/kernel"] == (0.125, 0.25, 0.5)
    assert rates["embed/tokens/embedding"] == (0.0625,)
    frozen = Partition.of(shapes(UNTIED), recipes.rules("last:1"), layer_decay=0.5)
    assert {leaf.path: leaf.rates for leaf in frozen.leaves}["blocks[2:3]/mlp/up/kernel"] == (0.5,)
    assert not any(leaf.trains for leaf in frozen.leaves if leaf.path.startswith("embed"))
