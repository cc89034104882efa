"""Low-rank updates: the formula, the merge, the targets."""

import dataclasses

import jax
import numpy as np
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import LLAMA, SPEC, random_batch

ALL = ("blocks/.*", "head")


def built(lora, **changes):
    model = Transformer(dataclasses.replace(SPEC, **changes), lora)
    params = flatten(model.init(jax.random.key(0)))
    # lora_b starts at zero; give it values, so that there is an update to see.
    keys = jax.random.split(jax.random.key(1), len(params))
    params = {
        p: jax.random.normal(k, a.shape) * 0.3 if p.endswith("lora_b") else a for k, (p, a) in zip(keys, params.items())
    }
    return model, unflatten(params)


@pytest.mark.parametrize("stabilized, scale", [(False, 8 / 4), (True, 8 / 2)])
def test_merged_equals_unmerged(stabilized, scale):
    lora = Lora(4, 8.0, stabilized, 0.0, ALL)
    model, params = built(lora, **LLAMA)
    plain = Transformer(model.spec)
    merged = lora.merge(params)
    assert flatten(merged).keys() == flatten(plain.shapes()).keys()
    tokens = random_batch(0, rows=2)["inputs"]
    # Two matrix products against one: float32 rounding on logits of order 10.
    np.testing.assert_allclose(model(params, tokens), plain(merged, tokens), atol=5e-4)
    flat = flatten(params)
    path = "blocks/mlp/up/"
    update = np.asarray(flat[path + "adapter/lora_a"]) @ np.asarray(flat[path + "adapter/lora_b"])
    np.testing.assert_allclose(flatten(merged)[path + "kernel"], flat[path + "kernel"] + scale * update, atol=1e-5)


def test_a_new_adapter_changes_nothing():
    lora = Lora(4, 8.0, False, 0.5, ("blocks/.*",))
    model, plain = Transformer(SPEC, lora), Transformer(SPEC)
    params, bare = model.init(jax.random.key(0)), plain.init(jax.random.key(0))
    flat = flatten(params)
    for path, array in flatten(bare).items():  # the base is initialized alike with and without adapters
        np.testing.assert_array_equal(array, flat[path])
    tokens = random_batch(0, rows=2)["inputs"]
    np.testing.assert_array_equal(model(params, tokens), plain(bare, tokens))


def test_initialization_is_of_the_layer_alone():
    few, many = (Transformer(SPEC, Lora(4, 8.0, False, 0.0, t)) for t in (("blocks/mlp/up",), ("blocks/.*",)))
    path = "blocks/mlp/up/adapter/lora_a"
    a, b = (flatten(m.init(jax.random.key(0)))[path] for m in (few, many))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a).max() <= 1 / 32**0.5 and np.std(a) == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.1)
    assert not np.array_equal(a[0], a[1]), "layers must not share their start"


def test_only_targets_are_adapted():
    paths = flatten(Transformer(SPEC, Lora(2, 4.0, False, 0.0, ("blocks/attention/(query|value)",))).shapes())
    adapted = {p.split("/adapter/")[0] for p in paths if "/adapter/" in p}
    assert adapted == {"blocks/attention/query", "blocks/attention/value"}


def test_dropout_is_on_the_adapters_input_only():
    lora = Lora(4, 8.0, False, 0.5, ("blocks/mlp/up",))
    model, params = built(lora)
    tokens = random_batch(0, rows=2)["inputs"]
    keys = jax.random.split(jax.random.key(0), 2)
    assert not np.array_equal(model(params, Inputs(tokens, keys=keys)), model(params, tokens))
    zero = unflatten({p: a * 0 if p.endswith("lora_b") else a for p, a in flatten(params).items()})
    np.testing.assert_array_equal(model(zero, Inputs(tokens, keys=keys)), model(zero, tokens))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(targets=("blocks/attention/qurey",)), "matches no linear layer.*did you mean 'blocks/attention/query'"),
        (dict(targets=("blocks/(",)), "not a regular expression"),
        (dict(rank=33), "tune.lora.rank: 33 is above the size"),
        (dict(targets=("head",)), "matches no linear layer"),  # tied: there is no head
    ],
    ids=str,
)
def test_impossible_adapters(changes, words):
    lora = dataclasses.replace(Lora(4, 8.0, False, 0.0, ("blocks/attention/query",)), **changes)
    with pytest.raises(UserError, match=words):
        lora.check(Transformer(SPEC).shapes())
