"""Low-rank updates of token embeddings and of experts: closed forms, the tied head, PEFT."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.model.moe import ExpertLinear, Routed
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training, moved
from tests.helpers import LLAMA, SPEC

EXPERTS = ("blocks/mlp/experts/(gate|up|down)",)
MIXTURE = {**LLAMA, "experts": 4, "layers": 2}
BOTH = Lora(3, 4.0, True, 0.0, (*EXPERTS, "embed/.*"))


@pytest.mark.parametrize("tied", [True, False])
def test_merged_equals_unmerged(tied):
    check_merge(BOTH, **{**MIXTURE, "tied": tied})


def test_a_start_changes_nothing():
    check_start(BOTH, **MIXTURE)
    flat = flatten(Transformer(dataclasses.replace(SPEC, **MIXTURE), BOTH).init(jax.random.key(0)))
    # As in the authors' code, the zero factor of a table is the one that is looked up in.
    assert not flat["embed/tokens/adapter/lora_a"].any() and flat["embed/tokens/adapter/lora_b"].any()
    a = flat["blocks/mlp/experts/up/adapter/lora_a"]
    assert a.shape == (2, 4, 32, 3) and not np.array_equal(a[0, 0], a[0, 1]) and np.abs(a).max() <= 1 / 32**0.5


@pytest.mark.slow
def test_training_moves_the_adapters_alone():
    check_training(BOTH, **MIXTURE)


@pytest.mark.slow
def test_programs():
    """Dropout of a token does not depend on what its expert gets besides."""
    check_programs(dataclasses.replace(BOTH, dropout=0.3), **{**MIXTURE, "tied": True})


def test_a_tied_head_sees_the_adapted_table():
    model, plain = Transformer(SPEC, Lora(2, 4.0, False, 0.0, ("embed/tokens",))), Transformer(SPEC)
    params = moved(model.init(jax.random.key(0)))
    flat = flatten(params)
    a, b = (flat[f"embed/tokens/adapter/lora_{x}"] for x in "ab")
    table = flat["embed/tokens/embedding"] + 2.0 * a @ b
    x = jax.random.normal(jax.random.key(1), (1, 5, 32))
    # The same sums in another order, on scores of order 10.
    np.testing.assert_allclose(model.logits(params, x), x @ table.T, atol=5e-5)
    base = unflatten({p: v for p, v in flat.items() if "/adapter/" not in p})
    assert np.abs(model.logits(params, x) - plain.logits(base, x)).max() > 0.1


def test_every_expert_has_an_update_of_its_own():
    spec, rngs = dataclasses.replace(SPEC, **MIXTURE), np.random.default_rng(0)
    from flax import nnx

    layer = ExpertLinear(8, 6, spec, nnx.Rngs(0), std=0.1)
    lora = Lora(2, 4.0, False, 0.0, EXPERTS)
    layer.adapter = nnx.data(lora.module(layer, "x", 1, jax.random.key(0)))
    layer.adapter.lora_b = nnx.Param(jnp.asarray(rngs.normal(size=(4, 2, 6)), jnp.float32))
    rows, sizes = jnp.asarray(rngs.normal(size=(10, 8)), jnp.float32), jnp.array([3, 0, 5, 2])
    y = layer(Routed(rows, sizes, None))
    for row, expert in enumerate(np.repeat(range(4), sizes)):
        kernel = layer.kernel[expert] + 2.0 * layer.adapter.lora_a[expert] @ layer.adapter.lora_b[expert]
        np.testing.assert_allclose(y[row], rows[row] @ kernel, atol=1e-5)


@pytest.mark.parametrize(
    "method, words",
    [
        (Dora(2, 4.0, False, 0.0, EXPERTS), "tune.lora.targets: .* names experts, which this method does not adapt"),
        (Ia3(("embed/tokens",)), "tune.ia3.targets: .* names tables of vectors, which this method does not adapt"),
        (Lora(2, 4.0, False, 0.0, ("embed/token",)), "matches no linear layer or .*did you mean 'embed/tokens'"),
        (Lora(33, 4.0, False, 0.0, EXPERTS), "tune.lora.rank: 33 is above the size of blocks/mlp/experts/"),
        (Lora(33, 4.0, False, 0.0, ("embed/tokens",)), r"tune.lora.rank: 33 is above .*embed/tokens \(64, 32\)"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_impossible_adapters(method, words):
    with pytest.raises(UserError, match=words):
        method.check(Transformer(dataclasses.replace(SPEC, **MIXTURE)).shapes())


def test_a_dense_model_has_no_experts():
    with pytest.raises(UserError, match="matches no linear layer"):
        Lora(2, 4.0, False, 0.0, EXPERTS).check(Transformer(SPEC).shapes())
