"""Programs with many small factorizations end, also on a machine with two cores."""

import sys

import pytest

from tests.processes import run

# The width of a real model's layers: small matrices are factored without other threads.
ROTATE = """
import jax, jax.numpy as jnp
from ptft_jax.adapters.oft import rotations
skews = [0.1 * jax.random.normal(jax.random.key(n), (4, 64 * 63 // 2)) for n in range(24)]
turn = jax.jit(lambda skews: sum(rotations(skew, 64).sum() for skew in skews))
for _ in range(100):
    turn(skews).block_until_ready()
"""
DECOMPOSE = """
import jax
from ptft_jax.adapters.lora import initial
from tests.adapters.test_starts import lora
kernels = [jax.random.normal(jax.random.key(n), (4, 64, 96)) for n in range(12)]
def start(kernels, init):
    return [jax.vmap(lambda k: initial(lora(init), k, jax.random.key(0))[0])(k).sum() for k in kernels]
for init in ("pissa", "olora"):
    made = jax.jit(lambda kernels: start(kernels, init))
    for _ in range(4):
        jax.block_until_ready(made(kernels))
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    "program", [pytest.param(ROTATE, marks=pytest.mark.slow), DECOMPOSE], ids=["rotations", "starts"]
)
def test_it_ends(program):
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
