"""Quantized kernels: the format against its derivation, numpy and bitsandbytes; methods on a quantized base."""

import dataclasses
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.base import ADDED
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.multi_adapter import MultiAdapter
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.errors import UserError
from ptft_jax.model import quantized
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.quantized import NF4, Quantization, dynamic_map, numbers
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training, moved
from tests.helpers import LLAMA, SPEC, random_batch

BLOCKS = ("blocks/(attention|mlp)/(experts/)?(query|key|value|out|gate|up|down)",)
MIXTURE = {**LLAMA, "experts": 4, "tied": True, "layers": 2}
NF = QuantizedBase(Lora(2, 4.0, False, 0.1, ("blocks/.*", "embed/tokens")), Quantization("nf4", 16), BLOCKS)

quantize = jax.jit(quantized.quantize, static_argnums=1)
dequantize = jax.jit(quantized.dequantize, static_argnums=(1, 2))


def kernel(size_in=128, size_out=48, seed=0):
    return np.random.default_rng(seed).normal(size=(size_in, size_out)).astype(np.float32) * 0.02


def test_nf4_is_made_of_the_normal_distributions_quantiles():
    """Appendix E: evenly spaced probabilities on either side, eight below and seven above zero."""
    ppf, end = statistics.NormalDist().inv_cdf, 0.9677083
    above = [ppf(p) for p in np.linspace(end, 0.5, 9)[:-1]]
    below = [-ppf(p) for p in np.linspace(end, 0.5, 8)[:-1]]
    made = np.sort([*above, 0.0, *below]) / max(above)
    np.testing.assert_allclose(NF4, made, atol=2e-7)  # published in float32


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_every_number_is_the_nearest_of_its_block(form, double):
    how, w = Quantization(form, 32, double), kernel(80)  # the last block is shorter
    leaves = quantize(jnp.asarray(w), how)
    again = np.asarray(dequantize(leaves, how, jnp.float32))
    table = np.asarray(NF4) if form == "nf4" else np.arange(-127, 128) / 127
    absmax = np.stack([np.abs(w[i : i + 32]).max(0) for i in range(0, 80, 32)])
    nearest = table[np.abs(w[..., None] / absmax.repeat(32, 0)[:80, :, None] - table).argmin(-1)]
    scales = again / np.where(nearest == 0, 1, nearest)
    if not double:
        np.testing.assert_allclose(again, nearest * absmax.repeat(32, 0)[:80], rtol=1e-6)
        # Half the largest gap; as a share of what was, a third of a step of three per cent.
        assert np.abs(again - w).max() <= np.diff(table).max() / 2 * np.abs(w).max() * 1.000001
    else:
        spread = np.abs(absmax - absmax.mean()).max()
        off = np.abs(scales - absmax.repeat(32, 0)[:80])[nearest != 0]
        # The widest step of the map of eight bits is 1 - 0.986 of the largest distance from the mean.
        assert 0 < off.max() <= np.diff(dynamic_map()).max() / 2 * spread * 1.001


def test_two_inputs_share_a_byte_and_zeros_stay():
    w = np.array([[1.0, 0, -1.0, 0.5], [0] * 4]).T.astype(np.float32)
    leaves = quantize(jnp.asarray(w), Quantization("nf4", 4, False))
    assert leaves["codes"].dtype == jnp.uint8 and leaves["codes"].shape == (2, 2)
    # 1.0 is code 15, zero code 7, -1.0 code 0; 0.5 is nearest to 0.44, code 12.
    np.testing.assert_array_equal(leaves["codes"][:, 0], [15 << 4 | 7, 0 << 4 | 12])
    np.testing.assert_array_equal(leaves["scales"], [[1.0], [0.0]])
    np.testing.assert_array_equal(dequantize(leaves, Quantization("nf4", 4, False), jnp.bfloat16)[:, 1], 0)


def test_stacked_kernels_are_quantized_apart():
    w, how = (
        jnp.asarray(np.stack([[kernel(seed=s) for s in (0, 1)], [kernel(seed=s) for s in (2, 3)]])),
        Quantization("nf4"),
    )
    together, alone = quantize(w, how), quantize(w[1, 0], how)
    for name, array in alone.items():
        np.testing.assert_array_equal(together[name][1, 0], array, err_msg=name)


def test_codes_do_not_depend_on_the_layout_over_devices():
    how, w = Quantization("nf4"), jnp.asarray(kernel(256, 96))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("fsdp",))
    spread = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp")))
    for name, array in quantize(w, how).items():
        np.testing.assert_array_equal(quantize(spread, how)[name], array, err_msg=name)


@pytest.mark.live
@pytest.mark.parametrize("double", [False, True])
def test_nf4_is_that_of_bitsandbytes(double):
    theirs, torch = pytest.importorskip("bitsandbytes").functional, pytest.importorskip("torch")
    np.testing.assert_array_equal(dynamic_map(), theirs.create_dynamic_map().numpy())
    for seed, dtype in ((0, torch.float32), (1, torch.bfloat16)):
        w = torch.from_numpy(kernel(256, 200, seed)).to(dtype)
        codes, state = theirs.quantize_4bit(
            w.T.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=double
        )
        how = Quantization("nf4", 64, double)
        ours = quantize(jnp.asarray(w.float().numpy()), how)
        np.testing.assert_array_equal(np.asarray(ours["codes"]).T.reshape(-1), codes.numpy().reshape(-1))
        scales, own = state.absmax.numpy(), np.asarray(ours["scales"]).reshape(-1)
        dense = theirs.dequantize_4bit(codes, state).float().numpy().T
        if not double:
            np.testing.assert_array_equal(own, scales)
            np.testing.assert_array_equal(dequantize(ours, how, jnp.dtype(str(dtype).split(".")[1])), dense)
            continue
        # A sum in another order.
        np.testing.assert_allclose(ours["scales_offset"], state.offset.numpy(), rtol=3e-7)
        np.testing.assert_allclose(ours["scales_absmax"], state.state2.absmax.numpy(), rtol=1e-5)
        # Where the map's steps are finest, near zero, their search on the CPU now and then misses the nearest.
        assert np.mean(own != scales) < 0.02
        exact = theirs.quantize_4bit(w.T.contiguous(), blocksize=64, quant_type="nf4")[1].absmax.numpy()
        unit = (exact - state.offset.numpy()) / state.state2.absmax.numpy().repeat(256)[: exact.size]
        for i in np.flatnonzero(own != scales):
            assert abs(dynamic_map()[own[i]] - unit[i]) <= abs(dynamic_map()[scales[i]] - unit[i])
        same = (own == scales).reshape(200, -1).T.repeat(64, 0)
        again = np.asarray(dequantize(ours, how, jnp.float32))
        near = 2e-6 if dtype == torch.float32 else 2**-8  # theirs is rounded to bfloat16
        np.testing.assert_allclose(again[same], dense[same], rtol=near, atol=1e-9)


@pytest.mark.live
def test_int8_is_that_of_bitsandbytes():
    """A block as long as the input: LLM.int8's vector-wise weights (Dettmers et al. 2022, section 3.1)."""
    theirs, torch = pytest.importorskip("bitsandbytes").functional, pytest.importorskip("torch")
    w = torch.from_numpy(kernel()).half()
    codes, absmax, _ = theirs.int8_vectorwise_quant(w.T.contiguous())
    how = Quantization("int8", 128, False)
    ours = quantize(jnp.asarray(w.float().numpy()), how)
    np.testing.assert_array_equal(np.asarray(ours["codes"]).T, codes.numpy())
    np.testing.assert_array_equal(np.asarray(ours["scales"])[:, 0], absmax.numpy())
    dense = theirs.int8_vectorwise_dequant(codes, absmax).numpy().T
    np.testing.assert_allclose(dequantize(ours, how, jnp.float32), dense, rtol=3e-7)


# Methods on a quantized base


@pytest.mark.heavy
def test_a_start_is_the_quantized_base():
    check_start(QuantizedBase(Dora(2, 4.0, False, 0.0, ("blocks/mlp/.*",)), Quantization("nf4", 16), BLOCKS), layers=2)


@pytest.mark.parametrize(
    "method, changes",
    [
        pytest.param(NF, MIXTURE, id="lora on nf4, a mixture", marks=pytest.mark.heavy),
        pytest.param(
            QuantizedBase(Dora(2, 4.0, False, 0.0, BLOCKS), Quantization("int8", 16, False), BLOCKS),
            {},
            id="dora on int8",
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_merged_into_dequantized_kernels(method, changes):
    check_merge(method, **changes)


def test_merged_into_the_bases_own_kernels_is_another_function():
    base = jax.jit(Transformer(SPEC).init)(jax.random.key(0))
    method = QuantizedBase(Lora(2, 4.0, False, 0.0, ("blocks/mlp/up",)), Quantization("nf4", 16), ("blocks/mlp/.*",))
    params = Transformer(SPEC, method.method).init(jax.random.key(0), base)  # as read back: with the base's own kernels
    merged = {into: flatten(method.merge(params, into)) for into in ("dequantized", "original")}
    for path, array in flatten(base).items():
        np.testing.assert_array_equal(merged["original"][path], array)
        changed = not np.array_equal(merged["dequantized"][path], array)
        assert changed == (path in ("blocks/mlp/up/kernel", "blocks/mlp/down/kernel")), path


@pytest.mark.slow
def test_training_moves_the_adapter_alone():
    check_training(NF, **MIXTURE)
    check_training(QuantizedBase(Ia3(("blocks/mlp/down",)), Quantization("int8", 16), BLOCKS))


@pytest.mark.slow
def test_programs():
    check_programs(NF, **MIXTURE)


@pytest.mark.heavy
def test_memory_of_a_step():
    """A backward pass keeps no dense kernels: the compiler needs as much for a step as on a plain base, not that and a
    copy of all kernels."""
    lora = Lora(2, 4.0, False, 0.0, BLOCKS)
    spec = ModelSpec(vocab_size=64, max_length=16, layers=8, width=128, heads=4, kv_heads=4, **LLAMA)
    temporary, frozen = {}, {}
    for name, method in {"plain": lora, "nf4": QuantizedBase(lora, Quantization("nf4"), BLOCKS)}.items():
        model = Transformer(spec, method)
        partition = Partition.of(model.shapes(), ((ADDED, 1.0), (".*", 0.0)))
        parts = jax.eval_shape(partition.split, model.shapes())

        def loss(trainable, rest, tokens, model=model, partition=partition):
            return jax.nn.logsumexp(model(partition.merge(trainable, rest), tokens)).sum()

        tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)
        temporary[name] = jax.jit(jax.grad(loss)).lower(*parts, tokens).compile().memory_analysis().temp_size_in_bytes
        frozen[name] = sum(leaf.bytes for leaf in partition.leaves if not leaf.trains)
        assert partition.count(False) == sum(np.prod(a.shape) for a in flatten(Transformer(spec).shapes()).values())
    kernels = 4 * sum(
        np.prod(a.shape) for p, a in flatten(Transformer(spec).shapes()).items() if p[:6] == "blocks" and "kernel" in p
    )
    # 4.127 bits a number (section 3 of the paper) against 32.
    assert frozen["nf4"] == pytest.approx(frozen["plain"] - kernels * (1 - 4.127 / 32), rel=0.02)
    assert temporary["nf4"] - temporary["plain"] < 2 * kernels / spec.layers


def test_the_table_counts_the_models_numbers():
    assert numbers("blocks/mlp/up/kernel/codes", (2, 4, 8), np.uint8) == 128
    assert numbers("blocks/mlp/up/kernel/codes", (2, 4, 8), np.int8) == 64
    assert numbers("blocks/mlp/up/kernel/scales", (2, 4, 8), np.uint8) == 0
    assert numbers("blocks/mlp/up/kernel", (2, 4, 8), np.float32) == 64


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(targets=("blocks/mlp/upp",)), "tune.quantize.targets: .*matches no linear layer.*did you mean"),
        (dict(targets=("embed/tokens",)), "names tables of vectors, which this method does not adapt"),
        (dict(method=Lora(2, 4.0, False, 0.0, ("blocks/qurey",))), "tune.lora.targets: .*matches no linear layer"),
    ],
    ids=str,
)
def test_impossible_bases(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(NF, **changes).check(Transformer(SPEC).shapes())


def test_an_odd_input_has_no_pairs():
    shapes = {"blocks": {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((2, 33, 8), jnp.float32)}}}}
    with pytest.raises(UserError, match="two inputs share a byte, and blocks/mlp/up has 33"):
        NF.check(shapes)


def test_quantized_kernels_do_not_train():
    shapes = Transformer(SPEC, NF).shapes()
    codes = Partition.of(shapes, (("blocks/mlp/up/kernel/scales", 1.0), (ADDED, 1.0), (".*", 0.0)))
    with pytest.raises(UserError, match="config.tune.rates: .*quantized kernels.*\n.*blocks/mlp/up/kernel/scales"):
        NF.updates(codes, 10)


def test_what_is_known_of_a_method_is_known_of_it_on_a_quantized_base():
    """Whatever `Method` offers comes from the method that is wrapped, not from the defaults."""
    from ptft_jax.adapters.base import Method

    offered = {name for name in vars(Method) if not name.startswith("__")} | {"learning_rate", "__call__"}
    assert offered <= vars(QuantizedBase).keys() | {"__call__"}


@pytest.mark.heavy
def test_several_adapters_share_a_quantized_base():
    several = QuantizedBase(
        MultiAdapter(Lora(2, 4.0, False, 0.0, ("blocks/mlp/.*",)), ("a", "b")), Quantization("nf4", 16), BLOCKS
    )
    model = Transformer(dataclasses.replace(SPEC, layers=2), several)
    params = moved(jax.jit(model.init)(jax.random.key(0)))
    tokens = random_batch(0, rows=2)["inputs"]
    each = jax.jit(model)(params, Inputs(tokens, adapters=jnp.array([1, 0])))
    alone = jax.jit(Transformer(model.spec, several.one))
    for row, number in enumerate((several.number("b", ""), 0)):
        # One product after another against both at once: rounding.
        np.testing.assert_allclose(each[row], alone(several.pick(params, number), tokens)[row], atol=2e-5)
