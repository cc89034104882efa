"""Rows divided by position: the numbers of one device, a share of its products, and no exchange of what grows with the square of a row.

What is compared with: the same run on one device, and counts by hand.
"""

import functools

import jax
import numpy as np
import pytest

from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.errors import UserError
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.parallel import cost
from ptft_jax.parallel import mesh as meshes
from ptft_jax.planning import forms
from ptft_jax.planning.plan import axes_of
from ptft_jax.training.trainer import Trainer
from tests.helpers import LLAMA, tiny_config, train
from tests.parallel import test_cost
from tests.parallel.test_tensor import KINDS

GATED = GatedPrefix(5, 2)
OTHERS = {
    "packed": dict(window=5, attention_cap=3.0, layer_kinds=("sliding", "full"), **LLAMA),
    "gated prefix": dict(
        adapter=GATED, rates=(*GATED.rates, (".*", 0.0))
    ),  # whole on each device, so of no length that divides
    "chunks": dict(objective=CausalLM(z_loss=1e-3, label_smoothing=0.1, chunk=6), **LLAMA),
}
MESHES = {
    "1": dict(),
    "2": dict(devices=2, context=2),
    "4": dict(devices=4, context=4),
    "2x2": dict(devices=4, context=2, fsdp=2),
    "2x2, unrolled": dict(devices=4, context=2, fsdp=2, scan=False),
    "tensor": dict(devices=4, context=2, tensor=2),
    "all": dict(devices=8, context=2, tensor=2, fsdp=2, micro=2),
}
SLOW = pytest.mark.slow


@functools.cache
def ran(kind, mesh):
    return train(steps=2, **{**KINDS, **OTHERS}[kind], **MESHES[mesh])


@pytest.mark.parametrize(
    "kind, mesh",
    [
        ("lora", "all"),
        pytest.param("full", "2", marks=SLOW),
        pytest.param("full", "4", marks=SLOW),
        pytest.param("full", "2x2, unrolled", marks=SLOW),
        pytest.param("full", "tensor", marks=SLOW),
        pytest.param("lora", "4", marks=SLOW),
        pytest.param("quantized", "2x2", marks=SLOW),
        pytest.param("frozen", "2x2", marks=SLOW),
        pytest.param("frozen", "tensor", marks=SLOW),
        pytest.param("packed", "2x2", marks=SLOW),
        pytest.param("gated prefix", "4", marks=SLOW),
        pytest.param("chunks", "2x2", marks=SLOW),
        pytest.param("chunks", "4", marks=SLOW),
    ],
)
def test_losses_are_those_of_one_device(kind, mesh):
    one, other = ran(kind, "1"), ran(kind, mesh)
    other.assert_equal_to(one)


@pytest.mark.parametrize(
    "devices, context, tensor",
    [(4, 2, 1), pytest.param(4, 4, 1, marks=SLOW), pytest.param(4, 2, 2, marks=SLOW)],
)
def test_products_are_shared_out_and_only_keys_and_values_are_handed_on(devices, context, tensor):
    """The backward pass takes the scores again. What is added up along context are gradients of parameters, and what sums of losses are
    made of; nothing is gathered."""
    program, _, _ = test_cost.programs("full", devices=devices, context=context, tensor=tensor)
    again = test_cost.LAYERS * test_cost.ATTENTION // 2
    assert program.flops == (3 * test_cost.FORWARD + again) // devices
    mesh = meshes.make(1, 0, jax.devices()[:devices], context=context, tensor=tensor)
    rows, length = test_cost.ROWS * context * tensor // devices, test_cost.LENGTH // context
    for one in program.collectives():
        if "context" not in axes_of(one.group, mesh):
            continue
        assert one.kind in ("collective-permute", "all-reduce"), one
        for shape in one.shapes:
            if one.kind == "all-reduce":
                assert len(shape) < 3 and shape not in ((rows, length), (rows, test_cost.LENGTH)), (
                    "a parameter's, or a sum"
                )
            else:
                assert np.prod(shape, dtype=int) <= rows * length * 16, "keys or values of one part"


@SLOW
def test_a_row_of_131072_tokens_has_no_square_of_scores():
    """A mask of a part's queries and all keys alone would have 2 GiB, scores of one head 8."""
    config = tiny_config(
        "", data__source="", data__length=2**17, data__batch_size=1, model__max_length=2**17, model__positions="rotary",
        model__layers=1, parallel__context=8, objective__chunk=2**14,
    )  # fmt: skip
    trainer = Trainer(config, vocab_size=256)
    batch = trainer.program.placed(forms.of(trainer))
    compiled = cost.executable(trainer.program.train, trainer.state_like, batch)
    assert cost.memory(compiled)["peak_bytes"] < 1.5 * 2**30


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(parallel__context=4, data__length=30), "parallel.context = 4: rows have data.length = 30 .*fits: 2"),
        (dict(parallel__context=8, data__length=27), "parallel.context = 8: rows have data.length = 27 .*fits: 1"),
        (dict(model__experts=4, model__gated=True, model__biases=("norm",)), "= 2: a mixture of experts .*experts = 4"),
        (
            dict(model__attention="cudnn", model__dtype="bfloat16"),
            "model.attention = 'cudnn': with parallel.context = 2 .*expected 'auto'",
        ),
        (
            dict(tune__method="prompt", model__max_length=64),
            "parallel.context = 2: config.tune.prompt adds learned vectors",
        ),
        (
            dict(tune__method="prefix", model__max_length=64),
            "parallel.context = 2: config.tune.prefix adds learned vectors",
        ),
        (dict(parallel__compile="pmap"), "parallel.context=1 \\(pmap copies the state\\), not 2"),
    ],
    ids=str,
)
def test_what_is_not_in_parts_is_refused(changes, words):
    config = tiny_config("", **(dict(data__source="", parallel__context=2) | changes))
    with pytest.raises(UserError, match=words):
        Trainer(config, vocab_size=256, tuned="tune__method" in changes)
