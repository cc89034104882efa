"""Prefixes of every layer, with and without the network that makes them: windows, packing, generation, training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.prefix import KEYS, VALUES, Prefix
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import built, check_generation, check_packed, check_programs, moved
from tests.helpers import LLAMA, SPEC, quiet_train, random_batch, tiny_config

N = 4
WINDOWS = dict(LLAMA, window=5, layer_kinds=("sliding", "full"))
BERT = dict(causal=False, norm_placement="post", token_types=2, embedding_norm=True)


@pytest.mark.parametrize(
    "family",
    [pytest.param(LLAMA, marks=pytest.mark.slow), WINDOWS, {}],
    ids=["llama", "windows", "gpt2"],
)
def test_a_prefix_of_what_a_text_makes_is_that_text(family):
    """The first layer's keys and values of n tokens, as the prefix of a model of one layer, do what the tokens do there."""
    spec = dataclasses.replace(SPEC, layers=1, init_std=0.3, max_length=32, **family)
    plain, model = Transformer(spec), Transformer(spec, Prefix(N, 0))
    base = plain.init(jax.random.key(0))
    text = random_batch(0, rows=1)["inputs"]
    allowed = jnp.arange(N)[None, :, None] >= jnp.arange(N)[None, None]
    _, [cache] = plain.decode(base, Inputs(text[:, :N], jnp.arange(N)[None]), allowed, plain.empty_cache(1, N), 0)
    flat = flatten(model.init(jax.random.key(1), base))
    k, v = (kept.swapaxes(0, 1).reshape(1, N, -1) for kept in cache)  # of [heads, slots, width]
    flat |= {KEYS: k, VALUES: v}
    got = jax.jit(model)(unflatten(flat), text[:, N:])
    np.testing.assert_allclose(got, jax.jit(plain)(base, text)[:, N:], atol=2e-5)


@pytest.mark.parametrize("family", [WINDOWS, BERT], ids=["windows", "both directions"])
def test_packed_rows(family):
    check_packed(Prefix(N, 0), **family)


def test_generation_with_a_shared_network_and_a_prompt():
    """The prompt comes behind the prefix, in windows as elsewhere."""
    check_generation(Composed((Prefix(N, 5), Prompt(3, "random"))), **WINDOWS, scan=False)


def test_the_network_can_be_left_out():
    model, params, _ = built(Prefix(N, 5), **WINDOWS, max_length=32)
    plainer, fewer = model.collapsed(params)
    assert plainer.adapt == Prefix(N, 0) and set(flatten(fewer)) == set(flatten(plainer.shapes()))
    tokens = random_batch(0, rows=2)["inputs"]
    expected = jax.jit(model)(params, tokens)
    np.testing.assert_allclose(jax.jit(plainer)(fewer, tokens), expected, atol=1e-6)
    # Every layer has its own in a stack that is cut, too.
    stacks = tuple(jax.tree.map(lambda a, cut=cut: a[cut], params["blocks"]) for cut in (slice(0, 1), slice(1, 3)))
    np.testing.assert_allclose(jax.jit(model)({**params, "blocks": stacks}, tokens), expected, atol=1e-6)
    other = moved(params, seed=5)
    assert np.abs(jax.jit(model)(other, tokens) - expected).max() > 1e-2


def test_half_precision():
    spec = dataclasses.replace(SPEC, dtype="bfloat16", max_length=32, remat="full")
    for hidden in (0, 5):
        model = Transformer(spec, Prefix(N, hidden))
        params = moved(model.init(jax.random.key(0)))
        tokens = random_batch(0, rows=2)["inputs"]
        exact = Transformer(dataclasses.replace(spec, dtype="float32"), model.adapt)(params, tokens)
        assert model.hidden(params, tokens).dtype == jnp.bfloat16
        # bfloat16 has 8 bits: some 1% after three layers.
        assert np.abs(model(params, tokens) - exact).max() < 0.05 * np.abs(exact).max()


def test_a_prefix_that_leaves_no_room(text_file, tmp_path, cache):
    config = tiny_config(text_file, tune__method="prefix", tune__prefix__length=1)
    with pytest.raises(UserError, match="tune.prefix.length = 1: with data.length 32 above model.max_length 32"):
        quiet_train(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("method", [Prefix(N, 0), Prefix(N, 5)], ids=["own", "shared"])
def test_every_way_of_running_it_is_the_same(method):
    check_programs(method, max_length=32)
