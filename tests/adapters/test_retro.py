"""Attention to passages of chunks: what each token reads, by changing what was found; the closed form; the start; what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.retro import ChunkedCrossAttention, Retro
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import PerRow
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import moved
from tests.helpers import SPEC

ROWS, CHUNKS, M, K, N = 2, 4, 4, 2, 3
T = CHUNKS * M


def found(seed=0):
    """int32 [ROWS, CHUNKS, K, N] tokens of passages, the second of which is shorter."""
    made = np.random.default_rng(seed).integers(0, SPEC.vocab_size, (ROWS, CHUNKS, K, N)).astype(np.int32)
    made[:, :, 1, 2:] = -1
    return made


@pytest.fixture(scope="module")
def made():
    """A model of one layer, so that what a token reads reaches no other; moved parameters, and tokens."""
    model = Transformer(dataclasses.replace(SPEC, layers=1), Retro(2, 0))
    params = moved(jax.jit(model.init)(jax.random.key(0)))
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, SPEC.vocab_size, (ROWS, T)), jnp.int32)
    run = jax.jit(lambda params, neighbors: model(params, Inputs(tokens, neighbors=neighbors)))
    return model, params, tokens, run


def test_each_chunk_is_predicted_by_what_the_one_before_found(made):
    """The token at place i predicts that at i + 1: tokens of chunk u + 1 alone change where what chunk u found does."""
    _, params, _, run = made
    before = np.asarray(run(params, found()))
    for chunk in range(CHUNKS):
        other = found()
        other[:, chunk] = found(seed=5)[:, chunk]
        changed = np.flatnonzero((np.asarray(run(params, other)) != before).any(axis=(0, 2)))
        predicted = changed + 1
        assert list(predicted) == [t for t in range((chunk + 1) * M, (chunk + 2) * M) if t <= T]


def test_nothing_is_read_from_behind():
    """Of two layers: a token that changes, and what was then found for its chunk and later ones, leave all before it as they are."""
    model = Transformer(dataclasses.replace(SPEC, layers=2), Retro(2, 0))
    params = moved(jax.jit(model.init)(jax.random.key(0)))
    tokens = np.random.default_rng(1).integers(0, SPEC.vocab_size, (ROWS, T)).astype(np.int32)
    run = jax.jit(lambda tokens, neighbors: model(params, Inputs(tokens, neighbors=neighbors)))
    before = np.asarray(run(tokens, found()))
    for place in (0, M - 1, M, 2 * M + 1):
        other, neighbors = tokens.copy(), found()
        other[:, place] = (other[:, place] + 1) % SPEC.vocab_size
        neighbors[:, place // M :] = found(seed=7)[:, place // M :]
        after = np.asarray(run(other, neighbors))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place] != before[:, place]).any()


def test_a_new_one_and_one_that_found_nothing_are_the_base(made):
    model, params, tokens, run = made
    base = Transformer(model.spec)
    plain = unflatten({k: v for k, v in flatten(params).items() if "/adapter/" not in k})
    new = jax.jit(model.init)(jax.random.key(0), plain)
    expected = np.asarray(jax.jit(base)(plain, tokens))
    np.testing.assert_array_equal(run(new, found()), expected)
    np.testing.assert_array_equal(run(params, np.full_like(found(), -1)), expected)
    assert (np.asarray(run(params, found())) != expected).any()


def test_the_attention_is_its_formula():
    """Token by token, in float64."""
    module = ChunkedCrossAttention(SPEC, 2, jax.random.key(0))
    module.gate[...] = jnp.asarray(0.7)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, ROWS, T, SPEC.width)).astype(np.float32)
    states = rng.normal(size=(ROWS, CHUNKS, 5, SPEC.width)).astype(np.float32)
    there = rng.random((ROWS, CHUNKS, 5)) < 0.6
    there[0, 1] = False
    rows = PerRow(None, None, None, (jnp.asarray(states), jnp.asarray(there)))
    got = np.asarray(module(None, None, jnp.asarray(y), jnp.asarray(x), rows))
    normed = np.asarray(module.norm(jnp.asarray(x)), np.float64)
    q, k, v, o = (np.asarray(getattr(module, name)[...], np.float64) for name in ("query", "key", "value", "out"))
    half = SPEC.width // 2
    for b in range(ROWS):
        for i in range(T):
            u = (i + 1) // M - 1
            read = np.zeros(SPEC.width)
            if u >= 0 and there[b, u].any():
                keys, values, query = states[b, u] @ k, states[b, u] @ v, normed[b, i] @ q
                for head in (slice(0, half), slice(half, None)):
                    scores = np.where(there[b, u], keys[:, head] @ query[head] / half**0.5, -np.inf)
                    shares = np.exp(scores - scores.max())
                    read[head] = shares / shares.sum() @ values[:, head]
            np.testing.assert_allclose(got[b, i], y[b, i] + 0.7 * (read @ o), atol=2e-5)


def test_what_is_refused(made):
    model, params, tokens, _ = made
    with pytest.raises(UserError, match="retro.*nothing was looked up"):
        model(params, tokens)
    with pytest.raises(UserError, match="neither writes nor answers"):
        model.extend(params, Inputs(tokens, jnp.zeros_like(tokens)), None, (), 0)
    shapes = Transformer(SPEC).shapes()
    with pytest.raises(UserError, match="retro.layers = 3: expected fewer than the model's 3, or 0 for all"):
        Retro(2, 3).check(shapes)
    with pytest.raises(UserError, match=f"retro.heads = 7: expected a divisor of the model's width, {SPEC.width}"):
        Retro(7, 0).check(shapes)
    both = Transformer(SPEC, Composed((Retro(2, 0), Prompt(3, "random"))))
    with pytest.raises(UserError, match="would shift these"):
        jax.eval_shape(lambda p: both(p, Inputs(tokens, neighbors=jnp.asarray(found()))), both.shapes())
