"""A head for classes in a causal model reads the last token of a text: never padding, and nothing of the rows beside it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.inputs import Inputs, last_of_each
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.classification import Classification
from ptft_jax.objectives.regression import Regression
from tests.helpers import LLAMA, SPEC

KINDS = {"learned": {}, "rotary": LLAMA, "unrolled, with a window": {**LLAMA, "scan": False, "window": 3}}
SIZES = (1, 7, 4, 12)
HEAD = dict(head="classes", classes=3)


@functools.cache
def built(kind, **more):
    """(model, parameters, the same model without its head: what it makes of every token)."""
    spec = dataclasses.replace(SPEC, init_std=0.3, **{**KINDS[kind], **HEAD, **more})
    model = Transformer(spec)
    params = jax.jit(model.init)(jax.random.key(1))
    whole = Transformer(dataclasses.replace(spec, head="lm", tied=True))
    return model, params, {name: leaf for name, leaf in params.items() if name != "head"}, whole


@functools.cache
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, SPEC.vocab_size, n).astype(np.int32) for n in SIZES]


@functools.cache
def expected(kind):
    """[texts, classes]: each text alone, all of its hidden states by the model without head, the last times the kernel."""
    _, params, trunk, whole = built(kind)
    hidden = (jax.jit(whole.hidden)(trunk, text[None])[0, -1] for text in texts())
    return np.stack([np.asarray(x) @ np.asarray(params["head"]["classes"]["kernel"]) for x in hidden])


def padded(length, left=False, fill=0):
    """(tokens, segments, positions) of rows of `length`, padded with a token that texts have, too."""
    tokens, segments = (np.full((len(SIZES), length), value, np.int32) for value in (fill, 0))
    positions = np.zeros_like(tokens)
    for n, text in enumerate(texts()):
        where = slice(length - len(text), length) if left else slice(0, len(text))
        tokens[n, where], segments[n, where], positions[n, where] = text, 1, np.arange(len(text))
    return tokens, segments, positions


PADDED = [(12, False, 0), (16, False, 9), (16, True, 5)]
KEPT = ("unrolled, with a window", *PADDED[2])


@pytest.mark.parametrize(
    "kind, length, left, fill",
    [
        pytest.param(*p, marks=() if p == KEPT else pytest.mark.slow)
        for p in ((k, *row) for k in KINDS for row in PADDED)
    ],
)
def test_scores_do_not_depend_on_padding_or_the_batch(kind, length, left, fill):
    model, params, *_ = built(kind)
    tokens, segments, positions = padded(length, left, fill=int(texts()[1][-1]) if fill == 9 else fill)
    found = jax.jit(model)(params, Inputs(tokens, positions, segments))
    assert found.shape == (len(SIZES), 3) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected(kind), rtol=2e-5, atol=2e-6)
    again = jax.jit(model)(params, Inputs(tokens[::-1], positions[::-1], segments[::-1]))
    np.testing.assert_array_equal(again[::-1], found)


@pytest.mark.slow
def test_rows_without_segments_end_with_their_last_token():
    model, params, *_ = built("rotary")
    for n, text in enumerate(texts()):
        np.testing.assert_allclose(jax.jit(model)(params, text[None])[0], expected("rotary")[n], rtol=2e-5, atol=2e-6)


def test_texts_of_a_packed_row_are_read_each_at_its_end():
    model, params, *_ = built("rotary")
    tokens, sizes = np.concatenate(texts()[:3]), SIZES[:3]
    segments = np.repeat(np.arange(1, 4), sizes).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in sizes]).astype(np.int32)
    row = [np.pad(a, (0, 16 - len(tokens)))[None] for a in (tokens, positions, segments)]
    reads = last_of_each(jnp.asarray(row[2]), 4)
    assert np.asarray(reads).tolist() == [[0, 7, 11, 0]]  # of a segment that is not there, anything
    hidden_BSD = model.hidden(params, Inputs(*row, reads=reads))
    found = [model.logits(params, hidden_BSD[:, n : n + 1])[0] for n in range(3)]
    np.testing.assert_allclose(found, expected("rotary")[:3], rtol=2e-5, atol=2e-6)


def test_the_head_of_a_causal_model_has_no_bias_and_no_cap():
    model, params, *_ = built("rotary")
    assert set(params["head"]) == {"classes"} and set(params["head"]["classes"]) == {"kernel"}
    capped = Transformer(dataclasses.replace(model.spec, logit_cap=1e-3))
    tokens = texts()[1][None]
    np.testing.assert_array_equal(jax.jit(capped)(params, tokens), jax.jit(model)(params, tokens))


def batch_of(kind):
    tokens, segments, positions = padded(14, fill=3)
    targets = {"classes": np.int32([0, 2, 1, 0]), "number": np.float32([0.5, -1.0, 2.0, 0.0])}[kind]
    return {
        "inputs": tokens, "segments": segments, "positions": positions, "targets": targets,
        "weights": np.float32([1, 1, 1, 0]),
    }  # fmt: skip


@pytest.mark.heavy
def test_both_objectives_learn_from_it():
    """Their losses by the formula, and no gradient to the embedding of the token that rows are padded with."""
    scores, batch = expected("rotary").astype(np.float64), batch_of("classes")
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    model, params, *_ = built("rotary")

    def loss(params, batch):
        return Classification().loss(model, params, batch).total

    value, slope = jax.jit(jax.value_and_grad(loss))(params, batch)
    assert value == pytest.approx(-log_p[range(3), batch["targets"][:3]].sum(), rel=1e-4)
    there = {int(token) for text in texts()[:3] for token in text}
    moved = np.flatnonzero(np.abs(np.asarray(slope["embed"]["tokens"]["embedding"])).sum(-1))
    assert set(moved.tolist()) == there and 3 not in there

    model, params, *_ = built("rotary", classes=1)
    batch = batch_of("number")
    found = Regression().loss(model, params, batch)
    numbers = np.asarray(jax.jit(model)(params, Inputs(batch["inputs"], segments=batch["segments"])))[:, 0]
    assert found.weight == 3
    assert found.total == pytest.approx(float(((numbers - batch["targets"])[:3] ** 2).sum()), rel=1e-5)


@pytest.mark.slow
def test_scores_in_bfloat16_are_not_rounded_to_it():
    """Answers that are alike would tie: differences of scores are what rewards are for."""
    model, params, *_ = built("rotary", dtype="bfloat16", classes=1)
    tokens, segments, positions = padded(12)
    inputs = Inputs(tokens, positions, segments)
    hidden = np.asarray(jax.jit(model.hidden)(params, inputs)[:, 0].astype(jnp.float32))
    kernel = np.asarray(params["head"]["classes"]["kernel"].astype(jnp.bfloat16).astype(jnp.float32))
    found = jax.jit(model)(params, inputs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, hidden @ kernel, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(found, found.astype(jnp.bfloat16).astype(jnp.float32))
