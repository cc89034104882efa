"""Steps that the backward pass takes again: their gradient, and what compilers may keep of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.layers import Norm, again, project, scores
from tests.helpers import SPEC


def test_what_is_taken_again_has_the_gradient_of_the_function():
    x, y = np.linspace(-1, 1, 5, dtype=np.float32), np.float32(0.7)
    found = jax.grad(lambda x, y: jnp.sum(again(lambda a, b: jnp.sin(a) * b)(x, y)), argnums=(0, 1))(x, y)
    np.testing.assert_allclose(found[0], np.cos(x) * y, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.sin(x).sum(), atol=1e-6)


@pytest.mark.parametrize("platform,barrier", [("cpu", False), ("cuda", True), ("tpu", True)])
def test_accelerators_do_not_keep_it(platform, barrier):
    step = jax.jit(jax.grad(lambda x: again(jnp.sin)(x).sum())).trace(jnp.ones(3)).lower(lowering_platforms=(platform,))
    assert ("optimization_barrier" in step.as_text()) is barrier


@pytest.mark.parametrize("dtype, atol", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_products_are_the_plain_product_in_value_and_gradient(dtype, atol):
    """Of rows [2, 3, 5] and a kernel [5, 4], with the slopes that a plain product has by the chain rule, in float64."""
    draw = np.random.default_rng(0).standard_normal
    x, kernel, slope = (
        np.asarray(jnp.asarray(draw(shape), dtype), np.float64) for shape in ((2, 3, 5), (5, 4), (2, 3, 4))
    )
    expected = x @ kernel, slope @ kernel.T, np.einsum("bti,bto->io", x, slope)
    for product, out in ((project, dtype), (scores, "float32")):
        y, pull = jax.vjp(product, jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
        assert y.dtype == out
        for found, by_hand in zip((y, *pull(jnp.asarray(slope, out))), expected, strict=True):
            scale = np.abs(by_hand).max()
            np.testing.assert_allclose(np.asarray(found, np.float64), by_hand, rtol=0, atol=atol * scale)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_are_their_formula_in_value_and_gradient(kind):
    """Without what `again` does about memory: the formula in plain jax.numpy, differentiated by JAX."""
    spec = dataclasses.replace(SPEC, width=6, heads=1, kv_heads=0, norm=kind, biases=())
    norm = Norm(spec)
    x, slope = (jnp.asarray(np.random.default_rng(seed).standard_normal((2, 3, 6)), jnp.float32) for seed in (0, 1))

    def formula(x):
        centered = x - x.mean(-1, keepdims=True) if kind == "layer" else x
        return centered / jnp.sqrt(jnp.mean(centered**2, -1, keepdims=True) + spec.norm_eps)

    (y, pull), (expected, expected_pull) = jax.vjp(norm, x), jax.vjp(formula, x)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    np.testing.assert_allclose(pull(slope)[0], expected_pull(slope)[0], atol=2e-6)
