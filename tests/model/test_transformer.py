"""The transformer: what a token may see, families, stacks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model import presets, rotary
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.params.partition import Partition
from ptft_jax.planning import flops
from tests.helpers import LLAMA, SPEC, random_batch

FAMILIES = {"gpt2": SPEC, "llama": dataclasses.replace(SPEC, **LLAMA)}


def built(family="gpt2", **changes):
    # A large standard deviation makes attention sharp, so that a wrong mask shows.
    model = Transformer(dataclasses.replace(FAMILIES[family], **({"init_std": 0.3} | changes)))
    return model, model.init(jax.random.key(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_sees_nothing_after_it(family):
    model, params = built(family)
    tokens = random_batch(0, rows=2)["inputs"]
    changed = tokens.copy()
    changed[:, 9:] = (changed[:, 9:] + 1) % SPEC.vocab_size
    a, b = model(params, tokens), model(params, changed)
    np.testing.assert_array_equal(a[:, :9], b[:, :9])
    assert np.abs(a[:, 9:] - b[:, 9:]).max() > 0.1


@pytest.mark.parametrize("family", [pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
def test_packed_rows_equal_rows_of_their_own(family):
    """Loss and gradients of three texts in one row, with padding, are those of three padded rows."""
    model, params = built(family)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, SPEC.vocab_size, n) for n in (5, 4, 6)]

    def rows(groups):
        batch = {k: np.zeros((len(groups), 16), np.int32) for k in ("inputs", "targets", "segments", "positions")}
        batch["weights"] = np.zeros((len(groups), 16), np.float32)
        for row, group in enumerate(groups):
            at = 0
            for number, text in enumerate(group, 1):
                n = len(text) - 1
                place = slice(at, at + n)
                batch["inputs"][row, place], batch["targets"][row, place] = text[:-1], text[1:]
                batch["segments"][row, place], batch["positions"][row, place] = number, np.arange(n)
                batch["weights"][row, place] = 1
                at += n
        return batch

    def gradients(batch):
        def total(p):
            loss = CausalLM().loss(model, p, batch)
            return loss.total / loss.weight

        return jax.jit(jax.value_and_grad(total))(params)

    packed, separate = gradients(rows([texts])), gradients(rows([[t] for t in texts]))
    # Sums of 12 terms in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), packed, separate)


def test_grouped_keys_equal_full_heads_with_repeated_keys():
    grouped, params = built()
    full = Transformer(dataclasses.replace(grouped.spec, kv_heads=4))
    for name in ("key", "value"):
        layer = params["blocks"]["attention"][name]
        for leaf, array in layer.items():
            parts = array.reshape(*array.shape[:-1], 2, 8)
            repeated = jnp.repeat(parts, 2, axis=-2).reshape(*array.shape[:-1], 32)
            params = jax.tree.map(lambda x: x, params)
            params["blocks"]["attention"][name] = {**params["blocks"]["attention"][name], leaf: repeated}
    tokens = random_batch(0, rows=2)["inputs"]
    _, original = built()
    np.testing.assert_allclose(grouped(original, tokens), full(params, tokens), atol=1e-4)


def test_consecutive_stacks_equal_one_stack():
    model, params = built()
    partition = Partition.of(params, (("blocks[1:2]/mlp/.*", 1.0), (".*", 0.0)))
    trainable, frozen = partition.split(params)
    merged = partition.merge(trainable, frozen)
    assert len(merged["blocks"]) == 3
    tokens = random_batch(0, rows=2)["inputs"]
    np.testing.assert_array_equal(model(params, tokens), model(merged, tokens))


def test_rotary_scores_depend_on_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    spec = dataclasses.replace(SPEC, head_dim=8)

    def score(m, n):
        at = lambda p: rotary.tables(spec, jnp.full((1, 1), p), "full")  # noqa: E731
        return float(jnp.sum(rotary.rotate(q, at(m)) * rotary.rotate(k, at(n))))

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_initial_parameters_have_the_stated_spread():
    model = Transformer(dataclasses.replace(SPEC, width=128, init_std=0.02))
    params = model.init(jax.random.key(0))
    assert np.std(params["blocks"]["mlp"]["up"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    # GPT-2: residual projections are divided by the square root of the number of residual additions.
    assert np.std(params["blocks"]["mlp"]["down"]["kernel"]) == pytest.approx(0.02 / 6**0.5, rel=0.05)


def test_bfloat16_computes_narrow_and_keeps_wide():
    model, params = built(init_std=0.02)
    narrow = Transformer(dataclasses.replace(model.spec, dtype="bfloat16"))
    tokens = random_batch(0, rows=2)["inputs"]
    hidden = narrow.hidden(params, tokens)
    assert hidden.dtype == jnp.bfloat16 and narrow(params, tokens).dtype == jnp.float32
    assert params["blocks"]["mlp"]["up"]["kernel"].dtype == jnp.float32
    # bfloat16 has 8 bits: 0.4% a rounding, through three layers.
    np.testing.assert_allclose(narrow(params, tokens), model(params, tokens), atol=0.03)


def test_unknown_family_names_the_nearest():
    with pytest.raises(Exception, match="did you mean 'llama'"):
        presets.family("lama")


def test_flops_of_a_known_model():
    # GPT-2 124M without attention: 2 * (parameters in matrix products), with the tied head.
    gpt2 = dataclasses.replace(SPEC, vocab_size=50257, max_length=1024, layers=12, width=768, heads=12, kv_heads=0)
    dense = 2 * (12 * 12 * 768**2 + 768 * 50257)
    attention = 2 * 12 * 768 * 1024
    assert gpt2.flops_per_token(1024) == dense + attention


KINDS = {
    "windows": {**LLAMA, "window": 5, "layer_kinds": ("sliding", "full", "nope"), "rope_local_theta": 50.0},
    "experts": {**LLAMA, "experts": 4, "norm_placement": "both", "query_key_norm": "all"},
    "side by side": {"parallel": True, "positions": "rotary", "rope_fraction": 0.5, "biases": ("mlp", "norm")},
    "bidirectional": {"causal": False, "norm_placement": "post", "embedding_norm": True, "token_types": 2, "head": "masked_lm"},
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.heavy if kind == "bidirectional" else pytest.mark.slow) for kind in KINDS],
)
def test_how_layers_are_run_changes_nothing(kind):
    """Scanned, unrolled, recomputed, or as consecutive stacks of which one is frozen: the same logits and gradients."""
    base = dataclasses.replace(SPEC, layers=4, init_std=0.2, **KINDS[kind])
    params = Transformer(base).init(jax.random.key(0))
    batch = random_batch(0, rows=2)
    partition = Partition.of(params, (("blocks[2:]/mlp/.*", 1.0), (".*", 0.0)))
    trainable, frozen = partition.split(params)

    def measured(segments, **how):
        model = Transformer(dataclasses.replace(base, **how))

        def loss(trainable):
            whole = partition.merge(trainable, frozen)
            whole = (
                whole
                if segments
                else {**whole, "blocks": jax.tree.map(lambda *a: jnp.concatenate(a), *whole["blocks"])}
            )
            return jnp.mean(jnp.square(model(whole, Inputs(batch["inputs"], segments=batch["inputs"] % 2 + 1))))

        value, gradient = jax.value_and_grad(loss)(trainable)
        return [value, *jax.tree.leaves(gradient)]

    expected = measured(False)
    for how in ({"scan": False}, {"remat": "full"}):
        for found, wanted in zip(measured(True, **how), expected):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("scan", [True, False])
def test_layers_that_are_recomputed_cost_their_products_again(scan):
    """Of three layers each one third of what recomputing all of them costs, whether scanned or one by one."""

    def operations(**how):
        model = Transformer(dataclasses.replace(SPEC, scan=scan, **how))
        tokens = jax.ShapeDtypeStruct((2, 16), np.int32)
        step = jax.make_jaxpr(jax.grad(lambda params, tokens: jnp.sum(model(params, tokens))))
        return flops.of_jaxpr(step(model.shapes(), tokens))

    none, *some = (operations(**how) for how in ({}, *(dict(remat="full", remat_layers=n) for n in (1, 2, 3, 0))))
    assert some[-1] > none and some[-1] == some[-2]
    assert [3 * (n - none) for n in some[:3]] == [(some[-1] - none) * n for n in (1, 2, 3)]
