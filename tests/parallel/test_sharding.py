"""Shardings by path rules."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import UserError
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import sharding


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(2, 4, jax.devices())


def test_fsdp_takes_the_largest_axis_that_divides_but_never_the_layers(mesh):
    assert sharding.spec_of("blocks/mlp/up/kernel", (8, 6, 12), "fsdp", mesh) == P(None, None, "fsdp")
    assert sharding.spec_of("embed/tokens/embedding", (64, 32), "fsdp", mesh) == P("fsdp", None)
    assert sharding.spec_of("blocks/norm/scale", (8, 6), "fsdp", mesh) == P()
    assert sharding.spec_of("head/kernel", (64, 32), "replicate", mesh) == P()


@pytest.mark.parametrize(
    "tactic, words",
    [
        (("fsdp",), "1 axes"),
        (("fsdp", "nowhere"), "tuple of None"),
        ((None, "fsdp"), "does not divide"),
        ("fdsp", "not 'fsdp'"),
    ],
)
def test_a_tuple_that_does_not_fit_says_why(mesh, tactic, words):
    with pytest.raises(UserError, match=words):
        sharding.spec_of("head/kernel", (64, 30), tactic, mesh)


def test_a_mesh_must_use_all_devices():
    with pytest.raises(UserError, match="3 \\* 1, but there are 8 devices"):
        meshes.make(3, 1)
