"""Rotations: that they are, what they keep, the merge, block sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import block_diag, expm

from ptft_jax.adapters.oft import Oft, rotations
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training
from tests.helpers import LLAMA, SPEC

TARGETS = ("blocks/.*",)


def skew(seed, blocks, size, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (blocks, size * (size - 1) // 2))


@pytest.mark.parametrize("size", [2, 5, 16])
def test_orthogonal_blocks(size):
    r = np.asarray(rotations(skew(0, 3, size), size))
    np.testing.assert_allclose(np.swapaxes(r, 1, 2) @ r, np.broadcast_to(np.eye(size), r.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(r), 1, atol=1e-4)


def test_the_cayley_transform():
    # In the plane Q = [[0, t], [-t, 0]] turns by 2 atan(t).
    t = 0.7
    c, s = np.cos(2 * np.arctan(t)), np.sin(2 * np.arctan(t))
    np.testing.assert_allclose(rotations(jnp.array([[t]]), 2)[0], [[c, -s], [s, c]], atol=1e-6)
    # In general exp(-2 Q) to the third order.
    v = np.asarray(skew(1, 1, 6, 1e-2))
    q = np.zeros((6, 6))
    q[np.triu_indices(6, 1)] = v[0]
    q = q - q.T
    np.testing.assert_allclose(rotations(jnp.asarray(v), 6)[0], expm(-2 * q), atol=2e-5)


def test_angles_between_neurons_stay():
    """The hyperspherical energy is that of the pretrained layer (section 3.1): it depends on the kernel's columns by their
    products alone."""
    leaves = {
        "kernel": jax.random.normal(jax.random.key(0), (2, 16, 5)),
        "adapter/skew": skew(0, 8, 4).reshape(2, 4, 6),
    }
    kernels = [np.asarray(leaves["kernel"]), np.asarray(Oft(4, TARGETS).fold("x", leaves)["kernel"])]
    assert np.abs(kernels[1] - kernels[0]).max() > 0.1
    before, after = (np.swapaxes(k, 1, 2) @ k for k in kernels)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_the_kernel_is_rotated_from_the_side_of_its_inputs():
    leaves = {"kernel": jax.random.normal(jax.random.key(0), (12, 5)), "adapter/skew": skew(0, 3, 4)}
    r = np.asarray(rotations(leaves["adapter/skew"], 4))
    expected = block_diag(*r) @ np.asarray(leaves["kernel"])
    np.testing.assert_allclose(Oft(4, TARGETS).fold("x", leaves)["kernel"], expected, atol=1e-5)


def test_merged_equals_unmerged():
    check_merge(Oft(8, TARGETS), **LLAMA)


def test_a_new_adapter_changes_nothing():
    check_start(Oft(16, TARGETS))


@pytest.mark.heavy
def test_training():
    check_training(Oft(8, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(Oft(8, ("blocks/attention/(query|value)", "blocks/mlp/.*")))


def test_it_is_kept_and_made_in_float32():
    model = Transformer(dataclasses.replace(SPEC, param_dtype="bfloat16", dtype="bfloat16"), Oft(8, TARGETS))
    shape = flatten(model.shapes())["blocks/mlp/down/adapter/skew"]
    assert shape.shape == (3, 128 // 8, 28) and shape.dtype == np.float32


@pytest.mark.parametrize("size, near", [(24, 16), (64, 32), (1, 2)])
def test_impossible_blocks(size, near):
    words = f"tune.oft.block_size: {size} does not divide the 32 inputs of blocks/mlp/up.*nearest .* is {near}$"
    with pytest.raises(UserError, match=words):
        Oft(size, ("blocks/mlp/up",)).check(Transformer(SPEC).shapes())
