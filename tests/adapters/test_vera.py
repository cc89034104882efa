"""Vectors beside shared random matrices: the formula, that the matrices are the same everywhere, the merge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ptft_jax.adapters.lora import as_lora
from ptft_jax.adapters.vera import Vera, shared
from ptft_jax.model.layers import Linear
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import built, check_merge, check_programs, check_start, check_training
from tests.helpers import LLAMA, SPEC, random_batch

TARGETS = ("blocks/.*",)
VERA = Vera(64, 0.1, 0.0, 0, TARGETS)  # the rank above the model's width of 32


def test_equation_2():
    layer = Linear(6, 5, SPEC, nnx.Rngs(0), bias=True, std=1.0)
    layer.adapter = nnx.data(Vera(3, 0.1, 0.0, 7, ()).module(layer, "x", 7, jax.random.key(1)))
    np.testing.assert_allclose(layer.adapter.vera_d[...], 0.1)
    layer.adapter.vera_d[...], layer.adapter.vera_b[...] = jnp.arange(3.0), jnp.linspace(-1, 1, 5)
    a, b = map(np.asarray, shared(7, 3, 6, 5))
    x = np.asarray(jax.random.normal(jax.random.key(3), (4, 6)))
    change = np.diag(np.linspace(-1, 1, 5)) @ b.T @ np.diag(np.arange(3.0)) @ a.T  # Lambda_b B Lambda_d A of the paper
    np.testing.assert_allclose(layer(x), layer.plain(x) + x @ change.T, atol=1e-5)


def test_the_matrices_of_smaller_layers_are_parts_of_those_of_larger_ones():
    a, b = shared(0, 8, 16, 12)
    larger_a, larger_b = shared(0, 8, 32, 20)
    np.testing.assert_allclose(larger_a[:16] * 2**0.5, a, rtol=1e-6)
    np.testing.assert_array_equal(larger_b[:, :12], b)
    a, b = shared(0, 256, 400, 300)
    assert np.std(a) == pytest.approx((2 / 400) ** 0.5, rel=0.01) and np.abs(a).max() <= (6 / 400) ** 0.5
    assert np.std(b) == pytest.approx((2 / 256) ** 0.5, rel=0.01)
    assert not np.array_equal(shared(1, 8, 16, 12)[0], shared(0, 8, 16, 12)[0])


def test_the_matrices_are_what_they_always_were():
    """Adapters that were trained depend on them: another generator, or another order of its numbers, would break these."""
    numbers = np.concatenate([shared(0, 8, 16, 12)[0][0, :4], shared(0, 8, 16, 12)[1][:3, 0]])
    expected = [0.41924748, -0.38900512, -0.33413723, -0.46451434, -0.8533921, -0.8298408, 0.14103484]
    np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.jit(lambda: shared(0, 8, 16, 12))()[0][0, :4], numbers[:4])


def test_merged_equals_unmerged():
    check_merge(VERA, **LLAMA)


def test_a_new_adapter_changes_nothing():
    check_start(VERA)


@pytest.mark.heavy
def test_training():
    check_training(Vera(64, 0.1, 0.1, 0, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(Vera(64, 0.1, 0.1, 0, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


def test_only_the_vectors_are_parameters():
    added = {p: a.shape for p, a in flatten(Transformer(SPEC, VERA).shapes()).items() if "/adapter/" in p}
    assert added["blocks/mlp/up/adapter/vera_d"] == (3, 64) and added["blocks/mlp/up/adapter/vera_b"] == (3, 128)
    assert {p.rsplit("/", 1)[1] for p in added} == {"vera_d", "vera_b"}


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_copy_of_the_matrices_a_layer(remat):
    """A backward pass over 12 layers holds the shared matrices about as often as one over 3, not four times."""

    def bytes_of(layers):
        changes = dict(layers=layers, remat=remat, scan=True, width=64)
        model, params, _ = built(Vera(1024, 0.1, 0.0, 0, ("blocks/attention/query",)), **changes)
        tokens = random_batch(0, rows=1, length=4)["inputs"]

        def loss(vectors, rest):
            return jnp.sum(model(unflatten({**rest, **vectors}), tokens))

        flat = flatten(params)
        vectors = {p: a for p, a in flat.items() if "/adapter/" in p}
        rest = {p: a for p, a in flat.items() if p not in vectors}
        return jax.jit(jax.grad(loss)).lower(vectors, rest).compile().memory_analysis().temp_size_in_bytes

    copy = 4 * 1024 * (64 + 64)
    assert bytes_of(12) - bytes_of(3) < 9 * 0.3 * copy


@pytest.mark.slow
def test_as_plain_lora():
    model, params, _ = built(VERA)
    method, flat = as_lora(VERA, flatten(params))
    tokens = random_batch(0, rows=2)["inputs"]
    expected = jax.jit(model)(params, tokens)
    got = jax.jit(Transformer(model.spec, method))(unflatten(flat), tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
