"""Generation with the cache equals running the model on the whole text again for every token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.errors import UserError
from ptft_jax.model.decode import NotFinite, Sampling, filtered, generate
from ptft_jax.model.transformer import Transformer
from tests.helpers import LLAMA, SPEC

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11] * 20]


def built(**changes):
    model = Transformer(dataclasses.replace(SPEC, max_length=64, init_std=0.3, **changes))
    return model, model.init(jax.random.key(0))


WINDOWS = {
    **LLAMA,
    "window": 6,
    "layer_kinds": ("sliding", "full", "nope"),
    "attention_cap": 5.0,
    "rope_local_theta": 100.0,
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({**LLAMA, "scan": False}, marks=pytest.mark.slow),
        {**WINDOWS, "norm_placement": "both", "query_key_norm": "head"},
        pytest.param(
            {**WINDOWS, "scan": False, "experts": 4, "norm_placement": "output", "query_key_norm": "all"},
            marks=pytest.mark.heavy,
        ),
    ],
    ids=["gpt2", "llama", "layers of several kinds", "unrolled, with experts"],
)
def test_greedy_equals_no_cache(family):
    model, params = built(**family)
    rows = generate(model, params, PROMPTS, max_new_tokens=18, sampling=Sampling(temperature=0))
    forward = jax.jit(model)
    for prompt, row in zip(PROMPTS, rows):
        text = np.zeros((1, 64), np.int32)  # padded after the text: a causal model does not see it
        text[0, : len(prompt)] = prompt
        for n in range(len(prompt), len(prompt) + 18):
            text[0, n] = int(jnp.argmax(forward(params, text)[0, n - 1]))
        assert row.ids == text[0, len(prompt) : len(prompt) + 18].tolist()
        assert row.reason == "length"


def test_a_row_does_not_depend_on_its_neighbors():
    model, params = built()
    options = dict(max_new_tokens=18, sampling=Sampling(temperature=1.0, top_p=0.9), seed=5)
    together = generate(model, params, PROMPTS, **options)
    alone = generate(model, params, PROMPTS[:1], **options)
    assert together[0] == alone[0]
    assert generate(model, params, PROMPTS, **{**options, "seed": 6}) != together


def test_stops():
    model, params = built()
    free = generate(model, params, PROMPTS, max_new_tokens=18, sampling=Sampling(temperature=0))
    stop = free[1].ids[4]
    rows = generate(model, params, PROMPTS, max_new_tokens=18, sampling=Sampling(temperature=0), stop_ids=(stop,))
    for row, whole in zip(rows, free):
        if stop in whole.ids:
            assert row.ids == whole.ids[: whole.ids.index(stop)] and row.reason == "end"
        else:
            assert row == whole
    cut = generate(
        model,
        params,
        PROMPTS,
        max_new_tokens=18,
        sampling=Sampling(temperature=0),
        cut=lambda row, ids: 2 if row == 0 else None,
    )
    assert cut[0].ids == free[0].ids[:2] and cut[0].reason == "stop" and cut[1] == free[1]


@pytest.mark.parametrize(
    "prompts, count, words",
    [([[1], []], 4, "prompt 1 is empty"), ([[1] * 60], 8, "a prompt of 60 leaves room for 4 new ones, not 8")],
)
def test_impossible_requests(prompts, count, words):
    model, params = built()
    with pytest.raises(UserError, match=words):
        generate(model, params, prompts, max_new_tokens=count)


@pytest.mark.parametrize("bad", [dict(temperature=-1), dict(top_p=0), dict(min_p=1), dict(top_k=-1)], ids=str)
def test_impossible_sampling(bad):
    with pytest.raises(UserError, match=f"{next(iter(bad))} = "):
        Sampling(**bad)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.3, 2),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.1, 1),
    min_p=st.floats(0, 0.5),
)
def test_filters_against_a_loop(seed, temperature, top_k, top_p, min_p):
    """Each filter written out over sorted probabilities, in plain Python."""
    logits = np.random.default_rng(seed).standard_normal(10) * 3
    x = np.asarray(logits, np.float32) / np.float32(temperature)
    keep = sorted(range(10), key=lambda i: -x[i])
    if top_k:
        keep = keep[:top_k]
    p = {i: float(np.exp(x[i] - x.max())) for i in keep}
    total = sum(p.values())
    mass, nucleus = 0.0, []
    for i in keep:
        if top_p < 1 and mass >= top_p - 1e-6:
            if mass < top_p + 1e-6:
                return  # on the edge: rounding decides
            break
        nucleus.append(i)
        mass += p[i] / total
    best = max(p[i] for i in nucleus)
    if any(abs(p[i] / best - min_p) < 1e-5 for i in nucleus):
        return
    expected = {i for i in nucleus if p[i] >= min_p * best}
    got = filtered(jnp.asarray(logits, jnp.float32)[None], Sampling(temperature, top_k, top_p, min_p))[0]
    assert {int(i) for i in np.flatnonzero(np.isfinite(got))} == expected


@pytest.mark.parametrize("temperature", [1.0, 1e6])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_k_means_k_where_logits_are_equal(k, temperature):
    """Of equal ones the lowest ids are kept, as in a sort by (-logit, id); a high temperature makes none equal that is not."""
    rows = np.asarray(
        [[0, 3, 3, 1, 3, 1, 0, 3, 2], [2] * 9, [-np.inf, 1, -np.inf, 1, 1, 1, 0, 0, -np.inf], 1 + np.arange(9) * 2e-7],
        np.float32,
    )
    got = np.isfinite(filtered(jnp.asarray(rows), Sampling(temperature, top_k=k)))
    for row, kept in zip(rows, got):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert set(np.flatnonzero(kept)) == {i for i in order if np.isfinite(row[i])}


def test_the_nucleus_of_equal_logits_is_as_small_as_its_mass_allows():
    got = filtered(jnp.zeros((1, 8)), Sampling(top_p=0.5))[0]
    assert np.flatnonzero(np.isfinite(got)).tolist() == [0, 1, 2, 3]


def test_rows_that_fit_have_each_the_room_that_is_left():
    model, params = built()
    prompts = [[1, 2, 3], [4] * 60, [5] * 63, [6] * 46]
    options = dict(max_new_tokens=18, sampling=Sampling(temperature=0))
    rows = generate(model, params, prompts, fit=True, **options)
    assert [(len(row.ids), row.reason) for row in rows] == [(18, "length"), (4, "full"), (1, "full"), (18, "length")]
    with pytest.raises(UserError, match="a prompt of 64 leaves room for 0 new ones, not 1"):
        generate(model, params, [[1] * 64], fit=True, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    model, params = built()
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[3].set(value)
    with pytest.raises(NotFinite, match="the logits of row 0 are not finite"):
        generate(model, params, PROMPTS, max_new_tokens=18, stop_ids=(0,))


@pytest.mark.parametrize("changes", [{"causal": False}, {"head": "classes"}], ids=str)
def test_models_that_cannot_write_say_so(changes):
    model, params = built(**changes)
    with pytest.raises(UserError, match="predicts no next token"):
        generate(model, params, [[1]], max_new_tokens=1)
