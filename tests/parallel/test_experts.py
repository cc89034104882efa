"""A mixture of experts over devices: each sends its own tokens to experts, and no more than these."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ptft_jax.adapters.base import ADDED
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.model import dispatch
from ptft_jax.model.moe import Experts
from ptft_jax.model.quantized import Quantization
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import cost, mesh, sharding
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.planning.plan import axes_of
from tests.helpers import LLAMA, train

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


def routed(chosen, layout=None, parts=1):
    """(a loss of what the experts of a layer make of tokens that go to `chosen`, its gradients by tokens, weights and kernels)."""
    spec = ModelSpec(**SIZES, gated=True, activation="silu").resolved
    definition, state = nnx.split(Experts(spec, nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, LENGTH, spec.width)).astype(np.float32)
    chosen, weights = jnp.asarray(chosen), rng.uniform(size=chosen.shape).astype(np.float32)

    def mixed(rows, kernels):
        experts, tokens = nnx.merge(definition, kernels), dispatch.sent(*rows)
        some = dispatch.here if layout is None else functools.partial(dispatch.exchanged, parts=parts)
        return some(experts, spec.experts, tokens=tokens).reshape(rows[0].shape)

    def loss(x, weights, kernels):
        rows = (x, weights, chosen, None)
        y = mixed(rows, kernels) if layout is None else layout.experts(mixed, rows, kernels)
        return jnp.sum(jnp.sin(30 * y))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, weights, nnx.to_pure_dict(state))


CHOSEN = {
    "evenly": np.tile([[0, 1], [2, 3]], (ROWS, LENGTH // 2, 1)),
    "at random": np.random.default_rng(1).permuted(np.tile(np.arange(4), (ROWS, LENGTH, 1)), axis=-1)[..., :2],
    "all to two": np.tile([3, 1], (ROWS, LENGTH, 1)),
}


@pytest.mark.parametrize("chosen", CHOSEN)
def test_no_token_is_lost_on_its_way_to_other_devices(chosen):
    """Whatever is chosen: what has no room in the first round goes in those after it."""
    layout = sharding.Rows(mesh.make(expert=4))
    one, other = routed(CHOSEN[chosen]), routed(CHOSEN[chosen], layout, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), other, one)


LORA = Lora(4, 8.0, False, 0.1, ("blocks/mlp/experts/.*", "blocks/attention/query"))
ADDED_ALONE = ((ADDED, 1.0), (".*", 0.0))
KINDS = {
    "full": dict(),
    "lora": dict(adapter=LORA, rates=ADDED_ALONE),
    "quantized": dict(
        adapter=QuantizedBase(LORA, Quantization("nf4", 8, False), ("blocks/mlp/experts/.*",)), rates=ADDED_ALONE
    ),
    "frozen": dict(rates=(("blocks[1:]/mlp/experts/.*", 1.0), ("blocks/mlp/router/.*", 1.0), (".*", 0.0))),
}
THREE = dict(fsdp=2, expert=2, tensor=2)
HEAVY, SLOW = pytest.mark.heavy, pytest.mark.slow
FIRST = (("full", THREE), ("full", dict(expert=4)), ("lora", dict(fsdp=2, expert=4)))


@functools.cache
def ran(kind, scan=True, **axes):
    how = KINDS[kind] | dict(experts=4, experts_per_token=2, mlp_width=32, **LLAMA, scan=scan)
    return train(steps=2, **(dict(devices=8) if axes else {}), **axes, **how)


@pytest.mark.parametrize(
    "kind, scan, axes",
    [
        # Each mesh with one of them; the others repeat it.
        *(
            pytest.param(kind, True, axes, marks=HEAVY if (kind, axes) in FIRST else SLOW)
            for kind in ("full", "lora") for axes in (dict(expert=4), THREE, dict(fsdp=2, expert=4))
        ),
        *(pytest.param(kind, True, THREE, marks=SLOW) for kind in ("quantized", "frozen")),
        *(pytest.param(kind, False, THREE, marks=SLOW) for kind in KINDS),
    ],
    ids=str,
)  # fmt: skip
def test_losses_are_those_of_one_device(kind, scan, axes):
    """Of experts that are on other devices, with dropout of their adapters."""
    one, other = ran(kind), ran(kind, scan, **axes)
    other.assert_equal_to(one)


@pytest.mark.parametrize("axes", [dict(expert=4), THREE], ids=str)
def test_a_device_has_its_own_experts_and_sends_tokens(axes):
    """Of 4 devices with rows of their own each has its share of the products of experts, in a round of which two do, and exchanges rows with
    those along expert, but no experts. Along tensor it has a part of the hidden units, and adds up the stream; along fsdp it gathers one
    layer's kernels."""
    devices = math.prod(axes.values())
    made = mesh.make(
        1, axes.get("fsdp", 1), jax.devices()[:devices], expert=axes["expert"], tensor=axes.get("tensor", 1)
    )
    spec = ModelSpec(**SIZES, gated=True, activation="silu", scan=False)
    layout = sharding.Rows(made)
    params = Transformer(spec).shapes()
    by_path = sharding.of_params(params, sharding.DEFAULT_RULES, layout.mesh)
    placed = unflatten(
        {p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=by_path[p]) for p, a in flatten(params).items()}
    )
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32, sharding=layout.sharding)
    model = Transformer(spec, constrain=layout)
    program = cost.parse(jax.jit(model).lower(placed, tokens).compile().as_text())
    parts, n, each, width, hidden = axes["expert"], ROWS * LENGTH // 4, 2, 16, 32 // made.shape["tensor"]
    room = math.ceil(n * each / parts * dispatch.ROOM)
    rounds = math.ceil(n * min(each, 4 // parts) / room)
    # A CPU's ragged product has every row meet each of the device's experts.
    own = 2 * rounds * parts * room * 3 * width * hidden * (4 // parts)
    found = sum(one.flops for one in program.dots() if "shard_map" in one.scope)
    assert found == spec.layers * own and rounds == 2
    along = {kind: [] for kind in ("all-to-all", "all-gather", "all-reduce")}
    for one in program.collectives():
        if one.group:
            along.setdefault(one.kind, []).append((axes_of(one.group, made), one))
    assert {axes for axes, _ in along["all-to-all"]} == {("expert",)}
    sent = [s for _, one in along["all-to-all"] for s in one.shapes if s[-1:] == (width,)]
    assert sent and all(np.prod(shape) <= parts * room * width for shape in sent)
    kernels = 4 // parts * width * hidden  # scores of tokens are larger, and stay where these are
    for axes, one in along["all-gather"]:
        assert axes == ("fsdp",) and all(np.prod(shape) <= max(kernels, 32 * width) for shape in one.shapes)
    for axes, one in along["all-reduce"]:
        stream = all(np.prod(shape) <= n * width for shape in one.shapes)
        assert stream if axes == ("tensor",) else all(np.prod(shape) == 1 for shape in one.shapes)
    assert (along["all-gather"] and along["all-reduce"]) or made.shape["tensor"] == 1
