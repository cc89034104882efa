"""Methods of 2024 to 2026 on linear layers: their formulas by hand, starts, merges, training, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.linalg import block_diag

from ptft_jax.adapters.bd_lora import BdLora
from ptft_jax.adapters.gralora import Gralora
from ptft_jax.adapters.hira import Hira
from ptft_jax.adapters.lora import as_lora
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.adapters.miss import Miss
from ptft_jax.adapters.osf import Osf
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.adapters.shira import Shira
from ptft_jax.errors import UserError
from ptft_jax.model.layers import Linear
from ptft_jax.model.quantized import Quantization
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import built, check_merge, check_programs, check_start, check_training
from tests.helpers import LLAMA, SPEC, random_batch

TARGETS = ("blocks/attention/(query|out)", "blocks/mlp/.*")
METHODS = {
    "shira": Shira(2, TARGETS),
    "miss": Miss(5, 0.0, TARGETS),  # 32 and 128 are no whole shards of 5
    "gralora": Gralora(4, 8.0, 2, 3, 0.0, TARGETS),
    "hira": Hira(3, 0.0, TARGETS),
    "bd_lora": BdLora(4, 8.0, 2, 0.0, TARGETS),
    "osf": Osf(0.5, TARGETS),
}
DROPS = {"miss": Miss(5, 0.1, TARGETS), "gralora": Gralora(4, 8.0, 2, 3, 0.1, TARGETS), "hira": Hira(3, 0.1, TARGETS)}
SIZES = (6, 8)


def layer_of(method, path="blocks/mlp/up"):
    """A layer [6, 8] with the method's module, its leaves moved at random."""
    layer = Linear(*SIZES, SPEC, nnx.Rngs(0), bias=True, std=1.0)
    layer.adapter = nnx.data(method.module(layer, path, 7, jax.random.key(1)))
    rng = np.random.default_rng(0)
    for name in vars(layer.adapter):
        leaf = getattr(layer.adapter, name)
        if isinstance(leaf, nnx.Param) and not name.startswith(("start_", "high", "places")):
            leaf[...] = jnp.asarray(leaf[...] + rng.normal(size=leaf.shape), leaf.dtype)
    return layer, {n: np.asarray(v[...]) for n, v in vars(layer.adapter).items() if isinstance(v, nnx.Param)}


def changes(layer):
    """What the adapter adds to the kernel, by what it makes of unit vectors."""
    one = jnp.eye(SIZES[0])
    return np.asarray(layer(one) - layer.plain(one))


def by_hand(kind, leaves, kernel):
    """What the kernel [in, out] gains, by loops over the paper's formula."""
    found = np.zeros(SIZES)
    if kind == "shira":
        for value, place in zip(leaves["weight"], leaves["places"]):
            found[place // SIZES[1], place % SIZES[1]] += value
    elif kind == "miss":
        for i in range(SIZES[0]):
            found[i] = leaves["block"][i % 5]
    elif kind == "gralora":  # block (i, j): columns j of a[i], rows i of b[j]
        a, b = leaves["gralora_a"], leaves["gralora_b"]
        for i in range(2):
            for j in range(2):
                part = a[i][:, 2 * j : 2 * j + 2] @ b[j][2 * i : 2 * i + 2]
                found[3 * i : 3 * i + 3, 4 * j : 4 * j + 4] = part
        found = 8 / 7 * (found + leaves["general_a"] @ leaves["general_b"])
    elif kind == "hira":
        found = kernel * (leaves["lora_a"] @ leaves["lora_b"])
    elif kind == "bd_lora":
        found = 2 * leaves["lora_a"] @ block_diag(*leaves["lora_b"])
    else:
        u, s, v = np.linalg.svd(kernel, full_matrices=False)
        found = leaves["left"] * leaves["singular"] @ leaves["right"] - u[:, 3:] * s[3:] @ v[3:]
    return found


@pytest.mark.parametrize("kind", METHODS)
def test_a_layer_is_the_formula(kind):
    layer, leaves = layer_of(METHODS[kind])
    expected = by_hand(kind, leaves, np.asarray(layer.kernel[...]))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(changes(layer), expected, atol=3e-5)
    whole = {"kernel": layer.kernel[...], **{f"adapter/{name}": jnp.asarray(a) for name, a in leaves.items()}}
    folded = METHODS[kind].fold("blocks/mlp/up", whole)["kernel"]
    np.testing.assert_allclose(folded, layer.kernel[...] + expected, atol=3e-5)


def test_layers_that_are_held_by_inputs_have_blocks_in_the_other_factor():
    layer, leaves = layer_of(METHODS["bd_lora"], "blocks/mlp/down")
    np.testing.assert_allclose(changes(layer), 2 * block_diag(*leaves["lora_a"]) @ leaves["lora_b"], atol=1e-5)


@pytest.mark.parametrize("sizes", [(6, 8), (8, 6), (6, 6)])
def test_gradients_of_a_subspace_leave_what_is_kept(sizes):
    """Eq. 5: g - U_high U_high^T g, on both sides, whichever of them is the longer."""
    layer = Linear(*sizes, SPEC, nnx.Rngs(0), bias=False, std=1.0)
    layer.adapter = nnx.data(Osf(2.0, TARGETS).module(layer, "x", 7, jax.random.key(1)))
    graph, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(2), (4, sizes[0]))

    def loss(state):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x)))

    found = nnx.to_pure_dict(jax.grad(loss)(state))["adapter"]
    slope = np.asarray(x.T @ np.cos(layer.plain(x)))  # of the kernel
    u, s, v = np.linalg.svd(np.asarray(layer.kernel[...]), full_matrices=False)
    left, right = slope @ v[2:].T * s[2:], (u[:, 2:] * s[2:]).T @ slope
    left, right = left - u[:, :2] @ (u[:, :2].T @ left), right - (right @ v[:2].T) @ v[:2]
    sign = np.sign(np.sum(u[:, 2:] * np.asarray(layer.adapter.left[...]), axis=0))
    np.testing.assert_allclose(found["left"] * sign, left, atol=2e-4)
    np.testing.assert_allclose(found["right"] * sign[:, None], right, atol=2e-4)


@pytest.mark.parametrize("kind", ["shira", *(pytest.param(k, marks=pytest.mark.slow) for k in METHODS if k != "shira")])
def test_merged_equals_unmerged(kind):
    check_merge(METHODS[kind], **LLAMA)


@pytest.mark.parametrize("kind", ["shira", *(pytest.param(k, marks=pytest.mark.slow) for k in METHODS if k != "shira")])
def test_a_new_adapter_changes_nothing(kind):
    check_start(METHODS[kind])


@pytest.mark.parametrize("kind", [pytest.param("osf", marks=pytest.mark.heavy), *(pytest.param(k, marks=pytest.mark.slow) for k in METHODS if k != "osf")])  # fmt: skip
def test_training(kind):
    got = check_training(DROPS.get(kind, METHODS[kind]))
    assert not [p for p in flatten(got.state.trainable) if "start_" in p or "places" in p or "high" in p]


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_every_way_of_running_it_is_the_same(kind):
    check_programs(DROPS.get(kind, METHODS[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_on_a_quantized_base(kind):
    method = QuantizedBase(METHODS[kind], Quantization("int8", 16, False), ("blocks/mlp/.*",))
    check_start(method)
    check_merge(method)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k, m in METHODS.items() if isinstance(m, LowRankMethod)])
def test_as_plain_lora(kind):
    model, params, _ = built(METHODS[kind])
    method, flat = as_lora(METHODS[kind], flatten(params))
    tokens = random_batch(0, rows=2)["inputs"]
    expected = jax.jit(model)(params, tokens)
    got = jax.jit(Transformer(model.spec, method))(unflatten(flat), tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "kind, expected",
    # Of a layer 32 x 128, as docs/methods.md has it.
    [
        ("shira", 2 * (32 + 128)),
        ("miss", 5 * 128),
        ("gralora", (4 + 3) * (32 + 128)),
        ("hira", 3 * (32 + 128)),
        ("bd_lora", 4 * 32 + 4 * 128 // 2),
        ("osf", 16 * (32 + 128 + 1)),
    ],
)
def test_how_many_numbers_train(kind, expected):
    method = METHODS[kind]
    partition = Partition.of(Transformer(SPEC, method).shapes(), (*method.rates, (".*", 0.0)))
    shapes = flatten(Transformer(SPEC, method).shapes())
    up = [f.source for f in partition.leaves if f.trains and f.source.startswith("blocks/mlp/up/")]
    assert sum(np.prod(shapes[path].shape[1:], dtype=int) for path in set(up)) == expected


@pytest.mark.parametrize(
    "method, words",
    [
        (Shira(30, TARGETS), r"at most 16"),
        (Miss(40, 0.0, TARGETS), "tune.miss.rank: 40 is above the 32 inputs of blocks/attention/(query|out)"),
        (Gralora(4, 8.0, 3, 0, 0.0, TARGETS), "tune.gralora.blocks: 3 does not divide tune.gralora.rank, 4; .* is 2$"),
        (Gralora(6, 8.0, 3, 0, 0.0, TARGETS), "blocks: 3 does not divide the 32 inputs of blocks/attention/(query|out); .* is 2$"),
        (Gralora(20, 8.0, 2, 13, 0.0, TARGETS), "rank: 20, with hybrid_rank = 13, is above the size of"),
        (Hira(33, 0.0, TARGETS), "tune.hira.rank: 33 is above the size of"),
        (BdLora(4, 8.0, 3, 0.0, TARGETS), "tune.bd_lora.blocks: 3 does not divide tune.bd_lora.rank, 4; .* is 2$"),
        (BdLora(4, 8.0, 2, 0.0, TARGETS, ("blocks/attention/key",)), "tune.bd_lora.rows: 'blocks/attention/key' names none"),
        (Osf(32.0, TARGETS), "tune.osf.kept: 32 keeps 32 of the 32 triplets of blocks/attention/(query|out)"),
        (Osf(0.01, TARGETS), "tune.osf.kept: 0.01 keeps 0 of the 32 triplets"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(method, words):
    with pytest.raises(UserError, match=words):
        method.check(Transformer(SPEC).shapes())


@pytest.mark.parametrize("kind", ["shira", "osf"])
def test_what_is_fixed_cannot_train(kind):
    method = METHODS[kind]
    partition = Partition.of(Transformer(SPEC, method).shapes(), ((".*/adapter/.*", 1.0), (".*", 0.0)))
    with pytest.raises(UserError, match=rf"(?s)tune.rates: these are fixed, as tune.{kind} made them.*, 0.0\) before"):
        method.updates(partition, 1)
