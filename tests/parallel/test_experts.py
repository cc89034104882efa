"""A mixture of experts over devices: each sends its own tokens to experts, and no more than these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import mesh, sharding

ROWS, LENGTH, DEVICES = 8, 16, 8
SIZES = dict(
    vocab_size=32, max_length=LENGTH, layers=2, width=16, heads=2, mlp_width=32, experts=4, experts_per_token=2
)


def gradient(spec, params, tokens, layout=None, place=lambda x: x):
    """(loss, gradients, FLOPs of the program of one device)."""
    model = Transformer(spec, constrain=layout)

    def loss(params, tokens):
        return jnp.mean(jnp.square(model(params, tokens)))

    step = jax.jit(jax.value_and_grad(loss)).lower(params, place(tokens)).compile()
    value, slopes = step(params, place(tokens))
    return float(value), slopes, step.cost_analysis()["flops"]


@pytest.mark.parametrize("scan,fsdp", [(False, 1), (True, 4)])
def test_each_device_works_on_its_own_rows(scan, fsdp):
    spec = ModelSpec(**SIZES, gated=True, activation="silu", scan=scan)
    tokens = np.random.default_rng(0).integers(0, 32, (ROWS, LENGTH)).astype(np.int32)
    params = Transformer(spec).init(jax.random.key(0))
    value, slopes, _ = gradient(spec, params, tokens)
    _, _, share = gradient(spec, params, tokens[: ROWS // DEVICES])
    layout = sharding.Rows(mesh.make(DEVICES // fsdp, fsdp))
    placed = jax.device_put(params, jax.sharding.NamedSharding(layout.mesh, jax.P()))
    found, of_found, flops = gradient(spec, placed, tokens, layout, lambda x: jax.device_put(x, layout.sharding))
    assert flops < 1.2 * share, "of all rows it would be 8 times as many"
    assert found == pytest.approx(value, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-8), of_found, slopes)
