"""Shardings by path rules."""

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import UserError
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import leaves, sharding, tensor
from ptft_jax.parallel import mesh as meshes


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


TENSOR = {  # of 8 devices as fsdp 2 x tensor 2: what each axis of a leaf is split along
    ("blocks/attention/query/kernel", (2, 8, 8)): P(None, "fsdp", "tensor"),
    ("blocks/attention/key/bias", (2, 8)): P(None, ("tensor", "fsdp")),
    ("blocks/attention/out/kernel", (2, 8, 8)): P(None, "tensor", "fsdp"),
    ("blocks/attention/out/bias", (2, 8)): P(None, "fsdp"),
    ("blocks/mlp/up/kernel", (2, 8, 32)): P(None, "fsdp", "tensor"),
    ("blocks/mlp/down/kernel", (2, 32, 8)): P(None, "tensor", "fsdp"),
    ("blocks/mlp/experts/gate/kernel", (2, 4, 8, 16)): P(None, None, "fsdp", "tensor"),
    ("blocks/mlp/experts/down/kernel", (2, 4, 16, 8)): P(None, None, "tensor", "fsdp"),
    ("blocks/mlp/experts/up/adapter/lora_b", (2, 4, 3, 16)): P(None, "fsdp", None, "tensor"),
    ("blocks/mlp/router/kernel", (2, 8, 4)): P(None, "fsdp", None),
    ("blocks/mlp_norm/scale", (2, 7)): P(),
    ("embed/tokens/embedding", (64, 8)): P("tensor", "fsdp"),
    ("embed/tokens/embedding", (63, 8)): P(None, ("tensor", "fsdp")),
    ("embed/positions/embedding", (16, 8)): P("fsdp", None),
    ("head/kernel", (8, 64)): P("fsdp", "tensor"),
    ("blocks/attention/query/adapter/lora_a", (2, 8, 3)): P(None, "fsdp", None),
    ("blocks/attention/query/adapter/lora_b", (2, 3, 8)): P(None, None, ("tensor", "fsdp")),
    ("blocks/mlp/down/adapter/lora_a", (2, 32, 3)): P(None, ("tensor", "fsdp"), None),
    ("blocks/mlp/down/adapter/lora_b", (2, 3, 8)): P(None, None, "fsdp"),
    ("blocks/mlp/up/kernel/codes", (2, 4, 32)): P(None, "fsdp", "tensor"),
    ("blocks/mlp/up/kernel/scales", (2, 32, 3)): P(None, ("tensor", "fsdp"), None),
}


def test_tensor_splits_by_what_a_layer_does_with_an_axis():
    mesh = meshes.make(2, 2, tensor=2)
    found = {key: sharding.spec_of(*key, "fsdp", mesh) for key in TENSOR}
    assert found == TENSOR
    by_path = {path: jax.sharding.NamedSharding(mesh, spec) for (path, _), spec in TENSOR.items()}
    assert sharding.of_stored("blocks[0:1]/attention/key/bias", (1, 8), by_path, mesh).spec == P(
        None, ("tensor", "fsdp")
    )
    assert sharding.of_stored("blocks[0:1]/attention/key/bias", (1, 6), by_path, mesh) is None, (
        "4 devices do not divide it"
    )


def test_what_every_device_holds_whole_is_named():
    mesh = meshes.make(1, 8)

    def line(rows, spec):
        where = jax.sharding.NamedSharding(mesh, spec)
        like = {"trainable": {"table": jax.ShapeDtypeStruct((rows, 256), "float32", sharding=where)}}
        return leaves.copied(leaves.of_state(like))

    assert line(1024, P()) == [
        "copied: trainable/table (1024, 256), 1.0 MiB, is whole on every device (parallel.fsdp, parallel.rules)"
    ]
    assert line(1023, P()) == line(1024, P("fsdp")) == []
    assert leaves.splits(mesh) and not leaves.splits(meshes.make())


def test_experts_are_split_whole():
    """All that an expert has, and nothing else."""
    mesh = meshes.make(1, 2, expert=2, tensor=2)
    found = [
        sharding.spec_of(f"blocks/mlp/{path}", shape, "fsdp", mesh)
        for path, shape in (
            ("experts/up/kernel", (2, 4, 8, 16)),
            ("experts/down/adapter/lora_b", (2, 4, 3, 8)),
            ("experts/up/kernel/scales_offset", (2, 4)),
            ("router/kernel", (2, 8, 4)),
        )
    ]
    assert found == [
        P(None, "expert", "fsdp", "tensor"),
        P(None, "expert", None, "fsdp"),
        P(None, ("expert", "fsdp")),
        P(None, "fsdp", None),
    ]
    spec = ModelSpec(vocab_size=8, max_length=8, layers=1, width=8, heads=2, experts=4, experts_per_token=2, gated=True)
    with pytest.raises(UserError, match="config.parallel.expert = 8: blocks/mlp/experts has 4 experts .*fits: 4"):
        tensor.check(spec.resolved, {}, meshes.make(expert=8))
    with pytest.raises(UserError, match="config.parallel.expert = 2: the model has no experts"):
        tensor.check(dataclasses.replace(spec, experts=0).resolved, {}, meshes.make(expert=2))


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"heads": 3, "kv_heads": 3, "width": 12}, "attention/query/kernel has 3 heads .*; nearest that fits: 1"),
        (
            {"heads": 12, "kv_heads": 6, "width": 24},
            "attention/key/kernel has 6 heads .model.kv_heads.*nearest that fits: 2",
        ),
        ({"mlp_width": 30}, "mlp/up/kernel has 30 hidden units .*nearest that fits: 2"),
        (
            {"vocab_size": 33, "width": 6, "heads": 4, "head_dim": 4, "mlp_width": 8},
            "embed/tokens/embedding has 33 x 6 .*: 2",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_what_tensor_does_not_divide_is_named(sizes, words):
    spec = ModelSpec(**{"vocab_size": 64, "max_length": 8, "layers": 1, "width": 32, "heads": 8} | sizes)
    with pytest.raises(UserError, match=f"config.parallel.tensor = 4: .*{words}"):
        tensor.check(spec.resolved, Transformer(spec).shapes(), meshes.make(tensor=4))
    tensor.check(spec.resolved, Transformer(spec).shapes(), meshes.make())
