"""Tensor parallelism: the numbers of one device, half of its products, and few exchanges.

What is compared with: the same run on one device, and counts by hand after Megatron-LM (Shoeybi et al. 2019, section 3).
"""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

import ptft_jax as pt
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.model.quantized import Quantization
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel.compile import to_host
from ptft_jax.planning.plan import axes_of
from ptft_jax.runs.saving import Checkpoints
from ptft_jax.training.trainer import Trainer
from tests.helpers import LLAMA, VOCAB, train
from tests.objectives.test_preference import pair_batches
from tests.parallel import test_cost

LORA = Lora(4, 8.0, False, 0.1, ("blocks/attention/.*", "blocks/mlp/(up|down|gate)", "embed/tokens"))
ADDED = ((".*/adapter/.*", 1.0), (".*", 0.0))
MIXTURE = dict(experts=4, experts_per_token=2, mlp_width=32, **LLAMA)
FOUR_BITS = Quantization("nf4", 8, False)
KINDS = {
    "full": dict(),
    "lora": dict(adapter=LORA, rates=ADDED),
    "quantized": dict(adapter=QuantizedBase(LORA, FOUR_BITS, ("blocks/.*",)), rates=ADDED),
    "frozen": dict(rates=(("blocks[1:]/mlp/.*", 1.0), (".*", 0.0))),
    "experts": MIXTURE,
    "experts' lora": dict(
        adapter=dataclasses.replace(LORA, targets=("blocks/mlp/experts/.*",)), rates=ADDED, **MIXTURE
    ),
}
MESHES = {
    "1": dict(),
    "2": dict(devices=2, tensor=2),
    "4": dict(devices=4, tensor=4),  # more than there are heads of keys
    "2x2": dict(devices=4, fsdp=2, tensor=2),
    "2x2, unrolled": dict(devices=4, fsdp=2, tensor=2, scan=False),
    "2x2x2": dict(devices=8, fsdp=2, tensor=2, micro=2),
}


@functools.cache
def ran(kind, mesh):
    return train(steps=2, **KINDS[kind], **MESHES[mesh])


HEAVY, SLOW = pytest.mark.heavy, pytest.mark.slow


@pytest.mark.parametrize(
    "kind, mesh",
    [
        ("lora", "2x2x2"),
        pytest.param("full", "2", marks=SLOW),
        pytest.param("full", "4", marks=HEAVY),
        pytest.param("full", "2x2, unrolled", marks=SLOW),
        pytest.param("lora", "4", marks=SLOW),
        pytest.param("quantized", "2x2", marks=HEAVY),
        pytest.param("frozen", "2x2", marks=SLOW),
        pytest.param("experts", "2x2", marks=HEAVY),
        pytest.param("experts", "4", marks=SLOW),
        pytest.param("experts' lora", "2x2", marks=SLOW),
    ],
)
def test_losses_are_those_of_one_device(kind, mesh):
    one, other = ran(kind, "1"), ran(kind, mesh)
    other.assert_equal_to(one)


@pytest.mark.heavy
def test_a_state_moves_between_meshes_bit_by_bit(tmp_path):
    """Parameters, moments and averages; those of adapters and frozen ones."""
    saved, other = ran("lora", "2x2x2").state, ran("lora", "1").state
    assert saved.frozen["blocks"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (3, 16, 64)
    with Checkpoints(tmp_path, keep_latest=1, keep_best=1, mode="min") as checkpoints:
        checkpoints.save(saved, saved.trainable, {"best": [None, -1, 0], "metrics": {}}, None)
    with Checkpoints(tmp_path, keep_latest=1, keep_best=1, mode="min") as checkpoints:
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), other)
        found = checkpoints.resume(like, like.trainable)
    pairs = [
        (found.params, saved.trainable),
        (found.training["optimizer"], saved.optimizer),
        (found.others["ema"], saved.ema),
    ]
    for one, before in pairs:
        jax.tree.map(np.testing.assert_array_equal, one, before)
        devices = [{len(a.sharding.device_set) for a in jax.tree.leaves(tree)} for tree in (one, before)]
        assert devices == [{1}, {8}]


@pytest.mark.parametrize("devices, tensor", [(4, 2), pytest.param(4, 4, marks=SLOW)])
def test_products_are_shared_out_and_exchanges_are_few(devices, tensor):
    """A pass through a layer has two sums along tensor, behind attention and the MLP; the backward pass as many (Megatron-LM, figure 4),
    where those of queries, keys and values are one exchange of three. None is of scores, hidden units or logits."""
    program, _, _ = test_cost.programs("full", devices=devices, tensor=tensor)
    assert program.flops == 3 * test_cost.FORWARD // devices
    mesh = meshes.make(1, devices // tensor, jax.devices()[:devices], tensor=tensor)
    rows = test_cost.TOKENS * tensor // devices
    sums = collections.Counter()
    for one in program.collectives():
        if "tensor" in axes_of(one.group, mesh):
            assert one.kind == "all-reduce" or tensor > 2, (
                "keys are copied where they have fewer heads than there are devices"
            )
            assert all(np.prod(shape, dtype=int) <= rows * 32 for shape in one.shapes), "no more than the stream"
            sums[sum(np.prod(shape, dtype=int) == rows * 32 for shape in one.shapes)] += one.times
    layers = test_cost.LAYERS
    # One: tokens' vectors, and twice a layer forwards; the head's, and the MLP's backwards. Three: attention's.
    assert sums[1] == 1 + 2 * layers + 1 + layers and sums[3] == layers and not sums[2]


def test_lora_halves_too():
    """Of an adapter's products those with what is split; the others, of its rank, are each device's."""
    one, two = (test_cost.programs("lora", devices=n, tensor=n)[0].flops for n in (1, 2))
    assert 0.5 * one < two < 0.56 * one


@pytest.mark.heavy
@pytest.mark.parametrize(
    "axes",
    [
        *(pytest.param(axes, marks=SLOW) for axes in (dict(fsdp=4), dict(tensor=4))),  # both below
        dict(fsdp=2, tensor=2),
        pytest.param(dict(fsdp=2, context=2), marks=SLOW),
    ],
    ids=str,
)
def test_dpo_of_an_adapter_ends_as_on_one_device(axes):
    """The recipe, its own settings but for sizes and a rate that a few steps show something of."""

    def losses(devices, **axes):
        config = pt.recipe("feedback/dpo:jsonl:pairs.jsonl")
        config.model.update(vocab_size=VOCAB, layers=2, width=32, heads=4, max_length=16)
        config.data.update(length=16, batch_size=8)
        config.optimizer.update(learning_rate=3e-2, warmup_steps=1)
        config.training.steps = 8
        mesh = meshes.make(devices=jax.devices()[:devices], **axes)
        trainer = Trainer(config, mesh=mesh, tuned=True)
        key = jax.random.key(0)
        base = trainer.plain_maker.init(key)
        state = trainer.create(lambda base: trainer.maker.init(key, base), base, rng=jax.random.key(1))
        found = []
        for batch in pair_batches(steps=4) * 2:
            state, metrics = trainer.program.train(state, trainer.program.place(batch))
            host = to_host(metrics)
            found.append(host["loss"][0] / host["loss"][1])
        return found

    one, other = losses(1), losses(4, **axes)
    assert one[0] == pytest.approx(np.log(2), rel=1e-6) and np.ptp(one) > 0.01, "it moves"
    np.testing.assert_allclose(other, one, rtol=0, atol=0.01 * np.ptp(one))  # a percent of that
