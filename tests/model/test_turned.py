"""Kernels that lie by outputs: the same products, of layers without adapters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.decode import Sampling, generate, laid_out
from ptft_jax.model.layers import project, scores
from ptft_jax.model.quantized import known_after
from ptft_jax.model.stacks import apart
from ptft_jax.model.turned import FEW, Turned, turned
from tests.model.test_pool import LLAMA, PROMPTS, built


@pytest.mark.parametrize("rows", [1, 2, FEW, FEW + 1])
def test_products_are_those_of_numpy(rows):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(rows, 1, 24)).astype(np.float32), rng.normal(size=(24, 40)).astype(np.float32)
    wanted = x.astype(np.float64) @ kernel.astype(np.float64)
    for product in (project, scores):
        found = jax.jit(product)(jnp.asarray(x), Turned(jnp.asarray(kernel.T)))
        assert found.shape == wanted.shape and found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_texts_are_those_of_kernels_as_they_are(tied, monkeypatch):
    model, params = built(**{**LLAMA, "tied": tied})
    given = laid_out(params)
    kernel = params["blocks"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(given["blocks"][1]["mlp"]["up"]["kernel"].by_output[0], kernel[1].T)
    assert tied or isinstance(given["head"]["kernel"], Turned)
    greedy = Sampling(temperature=0)
    found = generate(model, given, PROMPTS, max_new_tokens=6, sampling=greedy, logprobs=True)
    monkeypatch.setattr("ptft_jax.model.decode.laid_out", lambda params, consume=False: apart(params, consume))
    wanted = generate(model, params, PROMPTS, max_new_tokens=6, sampling=greedy, logprobs=True)
    for mine, other in zip(found, wanted):
        assert mine.ids == other.ids
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-5)


def test_layers_with_adapters_and_experts_are_as_they_are():
    """What else than a product reads them: DoRA takes norms of a kernel, experts are multiplied with by groups."""
    kernel = jnp.ones((1, 3, 2))
    given = {
        "up": {"kernel": kernel},
        "down": {"kernel": kernel, "adapter": {"kernel": kernel}},
        "experts": {"kernel": kernel[None]},
    }
    made = turned(given)
    assert made["up"]["kernel"].by_output.shape == (1, 2, 3)
    assert made["down"] is given["down"] and made["experts"]["kernel"] is given["experts"]["kernel"]
    assert turned(made)["up"]["kernel"] is made["up"]["kernel"]


def test_quantized_leaves_beside_them_stay_known_late():
    params = {"up": {"kernel": Turned(jnp.ones((2, 3)))}, "down": {"kernel": {"codes": jnp.ones((2, 2), jnp.int8)}}}
    found = known_after(jnp.ones((1,)), params)
    np.testing.assert_array_equal(found["up"]["kernel"].by_output, 1.0)
    assert found["down"]["kernel"]["codes"].dtype == jnp.int8


def test_layers_that_are_given_up_are_held_once():
    """Of a model that is consumed no kernel is there twice, its head's included."""
    model, params = built(**{**LLAMA, "tied": False})
    mine = jax.tree.map(jnp.copy, params)
    kernels = [mine["blocks"]["mlp"]["up"]["kernel"], mine["head"]["kernel"]]
    given = laid_out(mine, consume=True)
    assert all(kernel.is_deleted() for kernel in kernels)
    tokens = np.asarray([[3, 1, 4, 1, 5]])
    np.testing.assert_allclose(model(given, tokens), model(params, tokens), rtol=1e-5, atol=1e-5)
