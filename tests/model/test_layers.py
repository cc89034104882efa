"""Steps that the backward pass takes again: their gradient, and what compilers may keep of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.layers import again


def test_what_is_taken_again_has_the_gradient_of_the_function():
    x, y = np.linspace(-1, 1, 5, dtype=np.float32), np.float32(0.7)
    found = jax.grad(lambda x, y: jnp.sum(again(lambda a, b: jnp.sin(a) * b)(x, y)), argnums=(0, 1))(x, y)
    np.testing.assert_allclose(found[0], np.cos(x) * y, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.sin(x).sum(), atol=1e-6)


@pytest.mark.parametrize("platform,barrier", [("cpu", False), ("cuda", True), ("tpu", True)])
def test_accelerators_do_not_keep_it(platform, barrier):
    step = jax.jit(jax.grad(lambda x: again(jnp.sin)(x).sum())).trace(jnp.ones(3)).lower(lowering_platforms=(platform,))
    assert ("optimization_barrier" in step.as_text()) is barrier
