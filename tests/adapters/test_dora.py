"""Magnitude and direction: the formula, what takes a gradient, dropout, the merge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ptft_jax.adapters.dora import Dora
from ptft_jax.model.layers import Linear, PerRow
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training
from tests.helpers import LLAMA, SPEC

TARGETS = ("blocks/.*",)


def adapted_layer(dropout=0.0, stabilized=False):
    """A linear layer 6 -> 5 with a random adapter."""
    layer = Linear(6, 5, SPEC, nnx.Rngs(0), bias=True, std=1.0)
    layer.bias[...] = jnp.arange(5.0)
    layer.adapter = nnx.data(Dora(2, 3.0, stabilized, dropout, ()).module(layer, "x", 7, jax.random.key(1)))
    layer.adapter.lora_b[...] = jax.random.normal(jax.random.key(2), (2, 5))
    layer.adapter.magnitude[...] = jnp.linspace(0.5, 2.0, 5)
    return layer


@pytest.mark.parametrize("stabilized, scale", [(False, 3 / 2), (True, 3 / 2**0.5)])
def test_equation_5(stabilized, scale):
    layer = adapted_layer(stabilized=stabilized)
    a, b, m, w = (np.asarray(p[...]) for p in (layer.adapter.lora_a, layer.adapter.lora_b, layer.adapter.magnitude, layer.kernel))  # fmt: skip
    v = w + scale * a @ b
    x = np.asarray(jax.random.normal(jax.random.key(3), (4, 6)))
    expected = x @ (m * v / np.sqrt((v**2).sum(0))) + np.arange(5.0)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_the_length_takes_no_gradient():
    definition, params = nnx.split(adapted_layer())
    params = nnx.to_pure_dict(params)
    x = jax.random.normal(jax.random.key(3), (4, 6))
    w, (a, b, m) = params["kernel"], (params["adapter"][k] for k in ("lora_a", "lora_b", "magnitude"))
    length = jnp.linalg.norm(w + 1.5 * a @ b, axis=0)

    def ours(b):
        layer = nnx.merge(definition, {**params, "adapter": {**params["adapter"], "lora_b": b}})
        return jnp.sum(jnp.sin(layer(x)))

    def constant(b):
        return jnp.sum(jnp.sin(x @ (m * (w + 1.5 * a @ b) / length) + params["bias"]))

    np.testing.assert_allclose(jax.grad(ours)(b), jax.grad(constant)(b), atol=1e-5)


def test_dropout_is_on_what_the_method_adds():
    layer, x = adapted_layer(dropout=0.5), jax.random.normal(jax.random.key(3), (3, 4, 6))
    keys = jax.random.split(jax.random.key(0), 3)
    w, a, b, m = (p[...] for p in (layer.kernel, layer.adapter.lora_a, layer.adapter.lora_b, layer.adapter.magnitude))
    v = w + 1.5 * a @ b
    # layer(x) - (x @ w + bias) is h @ (m V / |V| - w) for the input h that dropout left.
    added = layer(x, PerRow(keys, None)) - layer.plain(x)
    change = m * v / jnp.linalg.norm(v, axis=0) - w
    kept = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 7), 0.5, (4, 6)))(keys)
    np.testing.assert_allclose(added, jnp.where(kept, 2 * x, 0) @ change, atol=1e-5)


def test_merged_equals_unmerged():
    check_merge(Dora(4, 8.0, False, 0.0, TARGETS), **LLAMA)


def test_a_new_adapter_changes_nothing_on_any_base():
    check_start(Dora(4, 8.0, False, 0.0, TARGETS))


@pytest.mark.heavy
def test_training():
    check_training(Dora(4, 8.0, False, 0.1, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(Dora(4, 8.0, False, 0.1, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


def test_an_output_without_weights_stays_finite():
    definition, params = nnx.split(adapted_layer())
    dead = jax.tree.map(lambda a: a * 0, nnx.to_pure_dict(params))
    value, gradient = jax.value_and_grad(lambda p: nnx.merge(definition, p)(jnp.ones((1, 6))).sum())(dead)
    assert value == 0 and all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_the_magnitude_is_kept_in_float32():
    spec = dataclasses.replace(SPEC, param_dtype="bfloat16")
    shapes = flatten(Transformer(spec, Dora(4, 8.0, False, 0.0, TARGETS)).shapes())
    assert shapes["blocks/mlp/up/adapter/magnitude"].dtype == np.float32
    assert shapes["blocks/mlp/up/adapter/lora_a"].dtype == jnp.bfloat16
