"""Rescaling vectors: what they multiply, the merge with biases, targets."""

import dataclasses

import jax
import numpy as np
import pytest

from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training
from tests.helpers import LLAMA, SPEC, random_batch

TARGETS = ("blocks/(attention/(key|value)|mlp/down)",)


def test_the_papers_places():
    shapes = flatten(Transformer(dataclasses.replace(SPEC, **LLAMA), Ia3(TARGETS)).shapes())
    layers, width, hidden = 3, 32, shapes["blocks/mlp/down/kernel"].shape[1]
    assert {p: a.shape for p, a in shapes.items() if "/adapter/" in p} == {
        "blocks/attention/key/adapter/scale": (layers, width // 2),  # two of four heads
        "blocks/attention/value/adapter/scale": (layers, width // 2),
        "blocks/mlp/down/adapter/scale": (layers, hidden),  # the down projection's input
    }


@pytest.mark.parametrize("target, feedforward", [("blocks/mlp/up", ()), ("blocks/mlp/down", ("blocks/mlp/down",))])
def test_both_ends_of_the_hidden_layer_are_one_place_when_nothing_bends(target, feedforward):
    """Scaling up's output by l is scaling down's input by l where the activation is linear (relu of positives)."""
    model = Transformer(dataclasses.replace(SPEC, activation="relu"), Ia3((target,), feedforward))
    params = flatten(model.init(jax.random.key(0)))
    scale = jax.random.uniform(jax.random.key(1), (3, 128), minval=0.5, maxval=2.0)  # relu(l h) = l relu(h) for l > 0
    params[f"{target}/adapter/scale"] = scale
    plain = {p: a for p, a in params.items() if "/adapter/" not in p}
    plain["blocks/mlp/down/kernel"] *= scale[:, :, None]
    tokens = random_batch(0, rows=2)["inputs"]
    expected = Transformer(model.spec)(unflatten(plain), tokens)
    np.testing.assert_allclose(model(unflatten(params), tokens), expected, atol=1e-5)


def test_merged_equals_unmerged():
    check_merge(Ia3(("blocks/.*",), ("blocks/mlp/(up|down)", "blocks/attention/out")))


def test_a_new_adapter_changes_nothing():
    check_start(Ia3(TARGETS))


def test_training():
    check_training(Ia3(TARGETS))


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(Ia3(TARGETS))


@pytest.mark.parametrize(
    "method, words",
    [
        (Ia3(("blocks/attention/kye",)), "tune.ia3.targets: .* matches no linear layer.*'blocks/attention/key'"),
        (Ia3(TARGETS, ("blocks/mlp/dwn",)), "tune.ia3.feedforward: .* matches no linear layer.*'blocks/mlp/down'"),
        (Ia3(TARGETS, ("blocks/mlp/up",)), "tune.ia3.feedforward: 'blocks/mlp/up' names none of the targets"),
        (Ia3(TARGETS, ("blocks/(",)), "not a regular expression"),
    ],
    ids=str,
)
def test_impossible_adapters(method, words):
    with pytest.raises(UserError, match=words):
        method.check(Transformer(SPEC).shapes())
