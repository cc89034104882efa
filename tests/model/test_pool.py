"""Rows that come and go, guessed tokens, log-probabilities, and what the compiled programs copy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.multi_adapter import MultiAdapter
from ptft_jax.adapters.prefix import Prefix
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.errors import UserError
from ptft_jax.model import pool
from ptft_jax.model.decode import Guesses, Sampling, generate, rounded
from ptft_jax.model.pool import Plan
from ptft_jax.model.quantized import Quantization
from ptft_jax.model.stacks import apart
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten
from tests.helpers import LLAMA, SPEC

GREEDY = Sampling(temperature=0)
PROMPTS = [[11] * 14, [1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [12, 1, 2, 1], [5, 6, 5, 6, 5], [33] * 20]
WINDOWS = {**LLAMA, "window": 6, "layer_kinds": ("sliding", "full"), "layers": 2, "attention_cap": 5.0}
heavy = pytest.mark.heavy


@functools.cache
def built(adapter=None, seed=0, **changes):
    model = Transformer(dataclasses.replace(SPEC, **{"max_length": 64, "init_std": 0.3} | changes), adapter)
    return model, jax.jit(model.init)(jax.random.key(seed))


def draft(**changes):
    return built(seed=1, layers=1, width=16, heads=2, kv_heads=1, **changes)


def likeliest(model, params, prompt, count):
    """What the model continues a prompt with, run on the whole text again for every token."""
    forward, text = jax.jit(model), np.zeros((1, model.spec.max_length), np.int32)
    text[0, : len(prompt)] = prompt
    for n in range(len(prompt), len(prompt) + count):
        text[0, n] = int(jnp.argmax(forward(params, text)[0, n - 1]))
    return text[0, len(prompt) : len(prompt) + count].tolist()


def test_prompts_that_take_the_places_of_others():
    """Two places for six prompts, which end at different times: each is continued as it would be alone."""
    model, params = built(**WINDOWS)
    whole = [likeliest(model, params, prompt, 22) for prompt in PROMPTS]
    stops = (whole[1][3], whole[2][12])
    seen = []
    rows = generate(
        model, params, PROMPTS, max_new_tokens=22, sampling=GREEDY, stop_ids=stops, places=2,
        on_tokens=lambda row, ids: seen.append(row),
    )  # fmt: skip
    for row, ids in zip(rows, whole):
        end = next((n for n, i in enumerate(ids) if i in stops), None)
        assert row.ids == ids[:end] and (row.reason, row.end) == (
            ("length", None) if end is None else ("end", ids[end])
        )
    assert len({len(row.ids) for row in rows}) > 2
    assert set(seen) == set(range(6)) and seen.index(5) > seen.index(1)


@heavy
def test_the_noise_of_a_row_is_its_own_whatever_its_place():
    model, params = built(**WINDOWS)
    options = dict(max_new_tokens=20, sampling=Sampling(temperature=1.0, top_p=0.9), seed=3)
    rows = generate(model, params, PROMPTS, **options)
    assert generate(model, params, PROMPTS, places=2, **options) == rows
    assert generate(model, params, PROMPTS, places=3, guesses=Guesses(3), **options) == rows
    assert generate(model, params, PROMPTS, guesses=Guesses(2, draft()), **options) == rows


LORA = Lora(2, 4.0, False, 0.0, ("blocks/.*",))


@pytest.mark.parametrize(
    "adapter, changes",
    [
        (None, WINDOWS),
        pytest.param(Prompt(3, "vocabulary"), {}, marks=pytest.mark.slow),
        pytest.param(Prefix(3, 0), WINDOWS, marks=pytest.mark.slow),
        pytest.param(MultiAdapter(LORA, ("a", "b", "c")), LLAMA, marks=pytest.mark.slow),
        pytest.param(QuantizedBase(LORA, Quantization("nf4", 16), ("blocks/.*",)), LLAMA, marks=pytest.mark.slow),
        pytest.param(None, {"experts": 4, **LLAMA}, marks=pytest.mark.slow),
    ],
    ids=["windows", "learned prompt", "learned keys", "several", "nf4", "experts"],
)
@pytest.mark.parametrize("kind", ["looked up", pytest.param("draft", marks=pytest.mark.slow)])
def test_guesses_change_no_token(adapter, changes, kind):
    """Up to the last position that the model has, and whichever stop token comes."""
    model, params = built(adapter, **changes)
    which = {"adapters": [0, 2, 1, 1, 0, 2]} if model.several else {}
    options = dict(max_new_tokens=60, fit=True, sampling=GREEDY, places=4, **which)
    whole = generate(model, params, PROMPTS, **options)
    for other in [None] if kind == "looked up" else [draft()]:
        assert generate(model, params, PROMPTS, guesses=Guesses(3, other), **options) == whole
        if adapter is None:  # a stop token among the guesses
            stops = (whole[2].ids[7], whole[4].ids[20])
            rows = generate(model, params, PROMPTS, stop_ids=stops, guesses=Guesses(3, other), **options)
            for row, ids in zip(rows, (row.ids for row in whole)):
                end = next((n for n, i in enumerate(ids) if i in stops), None)
                assert row.ids == ids[:end] and row.end == (None if end is None else ids[end])


@heavy
def test_a_good_draft_saves_passes():
    """A model is its own best draft: each of 16 passes between two looks keeps all of its guesses."""
    model, params = built(**WINDOWS)
    for other, alike in ((built(**WINDOWS), True), (draft(), False)):
        seen = []
        generate(
            model, params, [[1, 2, 3]], max_new_tokens=50, sampling=Sampling(), seed=1, guesses=Guesses(2, other),
            on_tokens=lambda row, ids, seen=seen: seen.append(len(ids)),
        )  # fmt: skip
        assert (seen[0] == 1 + 16 * 3) == alike and seen[-1] == 50


@heavy
def test_guessed_texts_have_the_models_probabilities():
    """Three tokens, two at a time: all 27 texts by number against the products of their probabilities, by the full model."""
    model, params = built(vocab_size=3, layers=1, width=16, heads=2, init_std=0.5)
    small = built(seed=1, vocab_size=3, layers=1, width=8, heads=2, init_std=0.5)
    texts = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    logits = np.asarray(model(params, np.c_[np.zeros(27, int), texts]), np.float64)[:, :3] / 1.3
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.exp(np.take_along_axis(logp, texts[..., None], 2).sum((1, 2)))
    assert abs(expected.sum() - 1) < 1e-6 and expected.min() > 1e-4
    count = 4096
    for guesses in (Guesses(2), Guesses(2, small)):
        rows = generate(
            model,
            params,
            [[0]] * count,
            max_new_tokens=3,
            sampling=Sampling(1.3),
            seed=5,
            places=count,
            guesses=guesses,
        )
        found = np.bincount([row.ids[0] * 9 + row.ids[1] * 3 + row.ids[2] for row in rows], minlength=27)
        # Of 26 degrees of freedom: beyond 66.0 lies less than one in 40,000.
        assert ((found - count * expected) ** 2 / (count * expected)).sum() < 66.0


@heavy
def test_log_probabilities():
    """By the model as it is, and as it was drawn from: of every token, and of the one that ended the row."""
    model, params = built(**WINDOWS)
    sampling = Sampling(temperature=0.7, top_k=3)
    options = dict(max_new_tokens=18, sampling=sampling, seed=2, places=2, logprobs=True)
    free = generate(model, params, PROMPTS, **options)
    rows = generate(model, params, PROMPTS, stop_ids=(free[0].ids[5],), **options)
    assert rows[0].end == free[0].ids[5] and any(row.end is None for row in rows)
    for prompt, row in zip(PROMPTS, rows):
        ids = row.ids + ([] if row.end is None else [row.end])
        text = np.zeros((1, 64), np.int32)
        text[0, : len(prompt) + len(ids)] = prompt + ids
        logits = np.asarray(model(params, text), np.float64)[0, len(prompt) - 1 : len(prompt) + len(ids) - 1]
        wanted = [z[i] - np.log(np.exp(z).sum()) for z, i in zip(logits, ids)]
        np.testing.assert_allclose(row.logprobs, wanted, atol=2e-5)
        kept = [np.sort(z)[-3:] / 0.7 for z in logits]
        drawn = [z[i] / 0.7 - np.log(np.exp(k).sum()) for z, i, k in zip(logits, ids, kept)]
        np.testing.assert_allclose(row.drawn, drawn, atol=3e-5)
    assert generate(model, params, PROMPTS[:1], max_new_tokens=2)[0].logprobs is None


def compiled(model, params, rows, slots, ahead=0):
    plan = Plan(model, GREEDY, (), False, False, ahead)
    given = pool.empty(plan, rows, slots, False, jax.random.key(0))
    return pool.advance.lower(plan, (params,), given, np.zeros((rows,), bool)).compile()


@pytest.mark.parametrize("rows, ahead", [(1, 0), (3, 2)])
def test_the_cache_is_updated_where_it_is(rows, ahead):
    """All of it is given back in its own memory, and what is made meanwhile is less than a layer's part of it."""
    model, params = built(**WINDOWS)
    found = compiled(model, apart(params), rows, 4096, ahead).memory_analysis()
    part = 2 * rows * 2 * 4096 * 8 * 4  # keys and values, rows, heads, slots, head size, bytes
    assert found.alias_size_in_bytes >= 2 * part
    # Scores and masks are of one number a slot, head and token.
    assert found.temp_size_in_bytes < part


def quantized(form, layers):
    """A model whose kernels are all quantized, its head's too; and a plain one of its form."""
    method = QuantizedBase(LORA, Quantization(form, 16, False), (*LORA.targets, "head"))
    spec = dataclasses.replace(
        SPEC, **{**LLAMA, "max_length": 64, "layers": layers, "width": 64, "heads": 4, "tied": False}
    )
    return Transformer(spec, method), Transformer(spec)


@pytest.mark.parametrize("form", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_quantized_base_is_made_dense_layer_by_layer(form):
    """The program needs the room of one layer's dense kernels, where there are two, or of the head's."""
    needed = []
    for model in quantized(form, 2):
        params = jax.eval_shape(lambda model=model: apart(model.init(jax.random.key(0))))
        needed.append(compiled(model, params, 1, 64).memory_analysis().temp_size_in_bytes)
    kernels = 4 * sum(
        np.prod(a.shape[1:]) for p, a in flatten(model.shapes()["blocks"]).items() if p.endswith("kernel")
    )
    assert kernels > 1e5 and needed[0] - needed[1] < 1.2 * kernels


@pytest.mark.parametrize(
    "form", [pytest.param("nf4", marks=pytest.mark.slow), pytest.param("int8", marks=pytest.mark.slow)]
)
def test_a_quantized_base_writes_what_its_dense_kernels_do(form):
    model, plain = quantized(form, 2)
    params = jax.jit(model.init)(jax.random.key(0))
    dense = jax.jit(model.adapt.merge)(params)
    options = dict(max_new_tokens=40, fit=True, sampling=GREEDY)
    assert generate(model, params, PROMPTS, **options) == generate(plain, dense, PROMPTS, **options)


def test_lengths_that_are_compiled_are_few():
    assert [rounded(n) for n in (1, 16, 17, 32, 33, 48, 49, 64, 65, 97, 128, 129, 193)] == [
        16, 16, 32, 32, 48, 48, 64, 64, 96, 128, 128, 192, 256,
    ]  # fmt: skip
    model, params = built(layers=1)
    generate(model, params, [[1] * 33], max_new_tokens=4, sampling=GREEDY)
    before = pool.admit._cache_size(), pool.advance._cache_size()
    for length in (35, 40, 41):
        generate(model, params, [[1] * length], max_new_tokens=4, sampling=GREEDY)
    assert (pool.admit._cache_size(), pool.advance._cache_size()) == before


@heavy
def test_layers_apart_are_the_same_model():
    model, params = built(**LLAMA)
    halves = tuple(jax.tree.map(lambda a, s=s: a[s], params["blocks"]) for s in (slice(0, 2), slice(2, 3)))
    tokens = np.asarray([[3, 1, 4, 1, 5]])
    wanted = model(params, tokens)
    for given in (params, {**params, "blocks": halves}):
        np.testing.assert_allclose(model(apart(given), tokens), wanted, rtol=1e-5, atol=1e-5)
    assert apart(apart(params))["blocks"] is not None
    mine = {**params, "blocks": jax.tree.map(jnp.copy, params["blocks"])}
    leaf = mine["blocks"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(model(apart(mine, consume=True), tokens), wanted, rtol=1e-5, atol=1e-5)
    assert leaf.is_deleted()


def shaped(adapter=None, **changes):
    """A model without parameters: what is refused is so before they are read."""
    return Transformer(dataclasses.replace(SPEC, **changes), adapter), {}


DYNAMIC = {**LLAMA, "rope_scaling": (("kind", "dynamic"), ("factor", 2.0), ("original", 32))}


@pytest.mark.parametrize(
    "changes, guesses, words",
    [
        (DYNAMIC, Guesses(2), "kind 'dynamic' turns with the length"),
        ({}, Guesses(2, shaped(vocab_size=80)), "the draft has a vocabulary of 80 tokens, and the model one of 64"),
        ({}, Guesses(2, shaped(causal=False)), "predicts no next token"),
        ({}, Guesses(2, shaped(Prompt(3, "random"))), "the draft has a learned prompt"),
        ({}, Guesses(2, shaped(MultiAdapter(LORA, ("a", "b")))), "the draft has several adapters"),
        ({}, Guesses(0), "ahead = 0"),
    ],
)
def test_guesses_that_cannot_be_made(changes, guesses, words):
    with pytest.raises(UserError, match=words):
        generate(*shaped(**changes), [[1]], max_new_tokens=2, guesses=guesses)
