"""Prompts that a network makes: what they amount to, training of every leaf, beside other methods."""

import jax
import numpy as np
import pytest

from ptft_jax.adapters.bottleneck import Bottleneck
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.p_tuning import PTuning
from ptft_jax.adapters.prefix import Prefix
from ptft_jax.adapters.prompt import PROMPT, Prompt
from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten
from tests.adapters.common import built, check_packed, check_programs, check_training
from tests.helpers import LLAMA, random_batch

N = 3


@pytest.mark.parametrize("encoder", ["mlp", pytest.param("lstm", marks=pytest.mark.slow)])
def test_the_network_can_be_left_out(encoder):
    model, params, _ = built(PTuning(N, 5, encoder), max_length=32)
    plainer, fewer = model.collapsed(params)
    assert plainer.adapt == Prompt(N, "random") and set(flatten(fewer)) == set(flatten(plainer.shapes()))
    tokens = random_batch(0, rows=2)["inputs"]
    np.testing.assert_allclose(jax.jit(plainer)(fewer, tokens), jax.jit(model)(params, tokens), atol=1e-6)
    prompt = np.asarray(flatten(fewer)[PROMPT])
    assert prompt.shape == (N, 32) and len(np.unique(prompt, axis=0)) == N


@pytest.mark.heavy
@pytest.mark.parametrize("encoder", ["mlp", pytest.param("lstm", marks=pytest.mark.slow)])
def test_training_beside_a_shared_prefix_and_bottlenecks(encoder):
    """Every leaf of the three moves."""
    form = {"mlp": "houlsby", "lstm": "parallel"}[encoder]
    others = Prefix(2, 5 * (encoder == "mlp")), Bottleneck(form, 6, "gelu", 0.0, 0.1)
    # Behind up-projections that start at zero only the second step reaches the rest.
    check_training(Composed((PTuning(N, 5, encoder), *others)), max_length=32, positions="rotary")


def test_packed_rows():
    check_packed(Composed((Bottleneck("pfeiffer", 6, "silu", 0.0, 0.0), PTuning(N, 5, "mlp"))), **LLAMA)


def test_two_prompts_are_one_too_many():
    with pytest.raises(UserError, match="another method of config.tune.method changes embed already"):
        built(Composed((PTuning(N, 5, "mlp"), Prompt(N, "random"))))


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_every_way_of_running_it_is_the_same(encoder):
    check_programs(PTuning(N, 5, encoder), max_length=32)
