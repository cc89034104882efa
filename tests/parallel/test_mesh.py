"""Which device is where in a mesh, and what does not divide."""

import dataclasses

import jax
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as its place in a mesh depends on."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "made up"


def ids(found):
    return np.vectorize(lambda device: device.id)(found).tolist()


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ({}, (8, 1, 1, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 1, 1, 2)),
        ({"expert": 4, "tensor": 0}, (1, 1, 4, 1, 2)),
        ({"fsdp": 2, "context": 0, "tensor": 2}, (1, 2, 1, 2, 2)),
        ({"fsdp": 0, "tensor": 4}, (1, 2, 1, 1, 4)),
    ],
    ids=str,
)
def test_one_axis_is_what_the_others_leave(sizes, shape):
    mesh = meshes.make(**sizes)
    assert mesh.axis_names == ("replica", "fsdp", "expert", "context", "tensor") and mesh.devices.shape == shape
    assert [d.id for d in mesh.devices.flat] == [d.id for d in jax.devices()]
    assert meshes.row_groups(mesh) == shape[0] * shape[1] * shape[2]


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"replica": 3}, "replica \\* parallel.fsdp = 3 \\* 1, but there are 8 devices.*parallel.replica=2"),
        (
            {"fsdp": 2, "tensor": 3},
            "= 1 \\* 2 \\* 3, but there are 8 devices; nearest that divides them: parallel.tensor=2",
        ),
        ({"replica": 2, "fsdp": 2}, "2 \\* 2, but there are 8 devices; parallel.replica=0 takes what the others leave"),
        ({"fsdp": 0, "tensor": 0}, "parallel.fsdp and config.parallel.tensor are 0: only one"),
    ],
    ids=str,
)
def test_a_mesh_must_use_all_devices(sizes, words):
    with pytest.raises(UserError, match=words):
        meshes.make(**sizes)


def test_slices_are_apart_along_copies_before_parts():
    """Of 2 slices of 4: a network joins them, which carries what is sent once a step at most."""
    devices = [Device(n, process_index=n // 4, slice_index=n // 4) for n in range(8)]
    assert ids(meshes.placed((2, 2, 1, 1, 2), devices)) == [[[[[0, 1]]], [[[2, 3]]]], [[[[4, 5]]], [[[6, 7]]]]]
    assert ids(meshes.placed((1, 1, 4, 1, 2), devices)) == [[[[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]]]
    with pytest.raises(
        UserError, match="2 slices, among which replica \\* fsdp \\* expert = 1 \\* 1 \\* 1 does not divide"
    ):
        meshes.placed((1, 1, 1, 1, 8), [dataclasses.replace(d, process_index=0) for d in devices])


def test_a_process_has_a_block_of_the_rows():
    """However devices are numbered; and no row is read by two processes."""
    devices = sorted((Device(n, process_index=n % 2) for n in range(8)), key=lambda d: d.process_index)
    assert ids(meshes.placed((4, 1, 1, 2, 1), devices)) == [
        [[[[0], [2]]]],
        [[[[4], [6]]]],
        [[[[1], [3]]]],
        [[[[5], [7]]]],
    ]
    with pytest.raises(UserError, match="tensor = 8: .* one process, which has 4; nearest that divides them: 4"):
        meshes.placed((1, 1, 1, 1, 8), devices)
    with pytest.raises(UserError, match="config.parallel.context \\* parallel.tensor = 8: .* which has 4; nearest"):
        meshes.placed((1, 1, 1, 4, 2), devices)


@pytest.mark.parametrize("count, parts", [(4, 4), (12, 4)])
def test_rows_are_divided_along_their_axes_alone(count, parts):
    mesh = meshes.make(fsdp=2, tensor=2)
    meshes.check_rows({"data.batch_size": count}, mesh)
    with pytest.raises(UserError, match=f"batch_size = {count + 2}: expected a multiple of the {parts} devices along"):
        meshes.check_rows({"data.batch_size": count + 2}, mesh)
