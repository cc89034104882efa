"""Rows of several pieces give the loss and gradients of rows of one, for every objective."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ptft_jax.adapters.prompt import Prompt
from ptft_jax.model.transformer import Transformer
from tests.helpers import LLAMA, SPEC
from tests.objectives.rows import BUILDERS, alone, packed, pieces

# Sums are taken in another order, in float32: a few units of rounding (6e-8) over some hundred terms, beside the
# largest gradient of the tensor; and beside the largest of all, for what is zero but for rounding (biases of keys).
TOLERANCE, FLOOR = 2e-5, 1e-6
# As many ids as give pieces of 12 and 7 positions: fewer programs to compile.
SIZES = {"causal_lm": (13, 8), "prefix_lm": (13, 8), "masked_lm": (12, 7), "span_corruption": (10, 5)}
WINDOWS = dict(LLAMA, window=4, layer_kinds=("sliding", "full"))


@functools.cache
def built(causal=True, adapter=None, **changes):
    spec = dataclasses.replace(SPEC, **{"init_std": 0.3, "max_length": 64, "layers": 2} | changes, causal=causal)
    model = Transformer(spec, adapter)
    return model, jax.jit(model.init)(jax.random.key(0))


def gradients(model, objective):
    def total(params, batch):
        loss = objective.loss(model, params, batch)
        return loss.total, loss.weight

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def close(got, want):
    largest = max(np.abs(g).max() for g in jax.tree.leaves(want))

    def one(path, got, want):
        bound = TOLERANCE * np.abs(want).max() + FLOOR * largest
        assert np.abs(got - want).max() <= bound, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(one, got, want)


def check(model, params, name):
    parts = pieces(name, SIZES[name])
    assert [len(part["inputs"]) for part in parts] == [12, 7]
    compute = gradients(model, BUILDERS[name][1])
    row = packed(parts, 24)
    (loss, weight), grads = compute(params, row)
    singles = [compute(params, alone(part)) for part in parts]
    np.testing.assert_allclose(loss, sum(float(total) for (total, _), _ in singles), rtol=TOLERANCE)
    assert weight == sum(w for (_, w), _ in singles) > 2
    close(grads, jax.tree.map(lambda *g: np.sum(g, axis=0), *(g for _, g in singles)))
    # What this would miss if segments did nothing: as one segment the row has another loss.
    mixed = {**row, "segments": np.minimum(row["segments"], 1)}
    assert abs(compute(params, mixed)[0][0] / loss - 1) > 1e-3


@pytest.mark.parametrize(
    "family", [pytest.param({}, marks=pytest.mark.slow), LLAMA], ids=["learned positions", "rotary"]
)
@pytest.mark.parametrize(
    "name", [n if n == "causal_lm" else pytest.param(n, marks=pytest.mark.heavy) for n in BUILDERS]
)
def test_packed_equals_alone(name, family):
    check(*built(name != "masked_lm", **family), name)


@pytest.mark.parametrize(
    "adapter, family",
    [(None, WINDOWS), pytest.param(Prompt(3, "vocabulary"), LLAMA, marks=pytest.mark.slow)],
    ids=["window", "prompt"],
)
def test_prefixes_with_sliding_windows_and_with_learned_vectors(adapter, family):
    check(*built(adapter=adapter, **family), "prefix_lm")


@pytest.mark.parametrize("changes", [{"remat": "full", "scan": False}], ids=str)
def test_prefixes_however_layers_are_run(changes):
    row = packed(pieces("prefix_lm", (13, 8)), 24)
    model, params = built(**WINDOWS)
    other = Transformer(dataclasses.replace(model.spec, **changes))
    (a, _), one = gradients(model, BUILDERS["prefix_lm"][1])(params, row)
    (b, _), two = gradients(other, BUILDERS["prefix_lm"][1])(params, row)
    np.testing.assert_allclose(a, b, rtol=TOLERANCE)
    close(one, two)
