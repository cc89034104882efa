"""Prefix LM: who sees whom, the loss beside other ways to compute it, and generation that reads its prompt so."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.prompt import Prompt
from ptft_jax.data.builders.prefix import with_prefix
from ptft_jax.model.decode import Sampling, generate
from ptft_jax.model.dot_product import Seen, Span
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import PrefixLM
from tests.helpers import LLAMA, SPEC, VOCAB
from tests.objectives.rows import alone

N, SPLIT = 14, 6
WINDOWS = dict(LLAMA, window=3, layer_kinds=("sliding", "full", "nope"))
families = pytest.mark.parametrize("family", [{}, WINDOWS], ids=["gpt2", "windows"])


@functools.cache
def built(adapter=None, **changes):
    model = Transformer(dataclasses.replace(SPEC, **{"init_std": 0.3, "max_length": 64} | changes), adapter)
    return model, jax.jit(model.init)(jax.random.key(0))


def text(seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, N).astype(np.int32)


def test_the_mask():
    prefix = np.array([[True, True, False, False, False], [False] * 5])
    whole, prefix = Span(0, 5), jnp.asarray(prefix)
    seen = Seen(prefix=(prefix, prefix))
    allowed, triangle = seen.allowed(whole, whole), np.tri(5, dtype=bool)
    assert not seen.plain_triangle
    expected = triangle.copy()
    expected[0, 1] = True
    np.testing.assert_array_equal(allowed, [expected, triangle])
    segments = jnp.asarray([[1, 1, 2, 2, 0]])
    prefix = jnp.asarray([[True, True, True, True, False]])
    allowed = Seen(segments=(segments, segments), prefix=(prefix, prefix)).allowed(whole, whole)
    blocks = np.kron(np.eye(3, dtype=bool), np.ones((2, 2), bool))[:5, :5]
    np.testing.assert_array_equal(allowed[0], blocks)


@families
def test_who_sees_whom(family):
    """From the gradient of each hidden state in each token's vector: exactly zero where it may not look."""
    model, params = built(**family)
    row = alone(with_prefix(text(), None, SPLIT))
    direction = np.random.default_rng(0).standard_normal(SPEC.width).astype(np.float32)
    tokens = np.arange(N - 1, dtype=np.int32)[None]  # all different: the gradient in a row of the table is a token's

    def hidden(table, tokens):
        changed = {**params, "embed": {**params["embed"], "tokens": {"embedding": table}}}
        return model.hidden(changed, Inputs(tokens, prefix=row["prefix"]))[0] @ direction

    table = params["embed"]["tokens"]["embedding"]
    slopes = np.abs(jax.jit(jax.jacrev(hidden))(table, tokens)).sum(-1)[:, : N - 1]
    order = np.arange(N - 1)
    inside = order < SPLIT
    expected = (order[:, None] >= order) | (inside[:, None] & inside)
    np.testing.assert_array_equal(slopes > 0, expected)  # in the end, as one of the layers has no window


@families
def test_each_target_alone(family):
    """A target's loss does not depend on what is behind it; the first's is that of a bidirectional model of the prefix."""
    model, params = built(**family)
    ids = text()
    objective = jax.jit(lambda batch: PrefixLM().loss(model, params, batch)[:2])
    row = alone(with_prefix(ids, None, SPLIT))
    total, weight = objective(row)
    losses = []
    for end in range(SPLIT + 1, N + 1):
        others = np.where(np.arange(N) < end, ids, text(end))
        loss, one = objective(alone(with_prefix(others, np.arange(N) == end - 1, SPLIT)))
        assert one == 1
        losses.append(float(loss))
    assert weight == N - SPLIT
    np.testing.assert_allclose(total, sum(losses), rtol=1e-5)
    if "window" not in family:
        both = Transformer(dataclasses.replace(model.spec, causal=False))
        log_p = jax.nn.log_softmax(both(params, ids[None, :SPLIT])[0, -1])
        np.testing.assert_allclose(losses[0], -log_p[ids[SPLIT]], rtol=1e-5)
    causal = objective({**row, "prefix": np.zeros_like(row["prefix"])})[0]
    assert abs(float(causal) / float(total) - 1) > 1e-3


def test_a_window_bounds_a_prefix_on_both_sides():
    """One layer, window 3: a position of the prefix sees two to each side of it."""
    model, params = built(**LLAMA, window=3, layers=1)
    tokens = np.tile(np.arange(8, dtype=np.int32), (9, 1))
    tokens[range(8), range(8)] = 40  # row i has another token i; the last row none
    hidden = model.hidden(params, Inputs(tokens, prefix=np.ones((9, 8), bool)))
    moved = np.abs(hidden[:8] - hidden[8]).max(-1) > 0
    order = np.arange(8)
    np.testing.assert_array_equal(moved, np.abs(order[:, None] - order) < 3)


@pytest.mark.parametrize(
    "family, adapter",
    [
        ({}, None),
        pytest.param(dict(WINDOWS, scan=False), None, marks=pytest.mark.slow),
        pytest.param(LLAMA, Prompt(3, "vocabulary"), marks=pytest.mark.slow),
    ],
    ids=["gpt2", "unrolled windows", "llama with learned vectors"],
)
def test_generation_reads_its_prompt_in_both_directions(family, adapter):
    model, params = built(adapter, **family)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11, 3] * 10]
    rows = generate(model, params, prompts, max_new_tokens=18, sampling=Sampling(temperature=0), prefix=True)
    forward = jax.jit(lambda tokens, prefix: model(params, Inputs(tokens, prefix=prefix)))
    length = 64 - model.virtual_tokens
    for prompt, row in zip(prompts, rows):
        tokens, prefix = np.zeros((1, length), np.int32), np.arange(length)[None] < len(prompt)
        tokens[0, : len(prompt)] = prompt
        for n in range(len(prompt), len(prompt) + 18):
            tokens[0, n] = int(jnp.argmax(forward(tokens, prefix)[0, n - 1]))
        assert row.ids == tokens[0, len(prompt) : len(prompt) + 18].tolist()
    causal = generate(model, params, prompts, max_new_tokens=18, sampling=Sampling(temperature=0))
    assert [row.ids for row in causal] != [row.ids for row in rows]


@pytest.mark.live
def test_logits_beside_transformers(tmp_path):
    """A published implementation given the same mask, as the four-dimensional one that it takes."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from ptft_jax.runs.loading import load
    from tests.interop import small

    folder = small.folder(tmp_path / "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype="float32")
    ours = load(f"hf:{folder}")
    ids = np.random.default_rng(0).integers(0, 256, (2, 20))
    splits = np.array([[7], [13]])
    prefix = np.arange(20) < splits
    order = np.arange(20)
    allowed = (order[:, None] >= order) | (order < splits)[:, None, :] & (order < splits)[:, :, None]
    mask = torch.where(torch.tensor(allowed)[:, None], 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(ids), attention_mask=mask).logits.numpy()
        causal = theirs(torch.tensor(ids)).logits.numpy()
    logits = ours.model(ours.params, Inputs(ids.astype(np.int32), prefix=prefix))
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(causal - expected).max() > 1e-2 * np.abs(expected).max()
