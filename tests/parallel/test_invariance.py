"""The same losses whatever the mesh, the micro-batches, the compilation, the scan and the rematerialization."""

import numpy as np
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.objectives.causal_lm import CausalLM
from tests.helpers import ROUNDING, optimizer_config, train


@pytest.fixture(scope="module")
def reference():
    return train()


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(dict(devices=8), marks=pytest.mark.slow),  # with fsdp below
        pytest.param(dict(devices=8, fsdp=8), marks=pytest.mark.slow),  # with micro-batches below
        dict(devices=8, fsdp=2, micro=2),
        pytest.param(dict(devices=8, kind="pmap"), marks=pytest.mark.slow),  # with micro-batches below
        pytest.param(dict(devices=4, kind="pmap", micro=2), marks=pytest.mark.heavy),
        pytest.param(dict(micro=4), marks=pytest.mark.slow),  # with both above
        pytest.param(dict(scan=False), marks=pytest.mark.slow),  # with remat below
        pytest.param(dict(remat="full"), marks=pytest.mark.slow),  # of scanned layers and of unrolled ones below
        pytest.param(dict(remat="full", remat_layers=2), marks=pytest.mark.slow),
        pytest.param(dict(remat="offload", memory="host", devices=4, fsdp=2), marks=pytest.mark.heavy),
        pytest.param(dict(remat="dots", scan=False), marks=pytest.mark.heavy),
        pytest.param(dict(objective=CausalLM(z_loss=1e-3, label_smoothing=0.1, chunk=5)), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_losses_do_not_depend_on(setting, reference):
    got = train(**setting)
    got.assert_equal_to(reference)


SLOW, HEAVY = pytest.mark.slow, pytest.mark.heavy


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=mark)
        for name, mark in {"adafactor": SLOW, "lion": SLOW, "muon": SLOW, "sgd": SLOW}.items()
    ],
)
def test_optimizers_are_the_same_when_state_is_sharded(name):
    optimizer = optimizer_config(name=name)
    one, eight = train(optimizer=optimizer), train(optimizer=optimizer, devices=8, fsdp=4, tensor=2)
    np.testing.assert_allclose(one.losses, eight.losses, atol=ROUNDING, rtol=0)
    assert one.losses[0] != one.losses[1]


@pytest.mark.heavy
def test_frozen_layers_and_adapters_on_a_mesh():
    lora = Lora(4, 8.0, False, 0.1, ("blocks/attention/(query|value)", "blocks/mlp/.*"))
    rates = (("blocks[2:]/mlp/.*/adapter/.*", 0.0), ("blocks[2:]/mlp/.*", 0.5), (".*/adapter/.*", 1.0), (".*", 0.0))
    one, eight = train(adapter=lora, rates=rates), train(adapter=lora, rates=rates, devices=8, fsdp=4)
    np.testing.assert_allclose(one.losses, eight.losses, atol=ROUNDING, rtol=0)


def test_fsdp_splits_parameters_and_moments():
    state = train(devices=8, fsdp=8, steps=1).state
    kernel = state.trainable["blocks"]["mlp"]["up"]["kernel"]
    moment = state.optimizer[1].mu["blocks"]["mlp"]["up"]["kernel"]
    for array in (kernel, moment):
        assert array.addressable_shards[0].data.size * 8 == array.size
