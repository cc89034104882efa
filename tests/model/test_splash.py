"""Attention as a TPU's kernel carries it out, which XLA's operations stand in for, beside the sum over keys that it is by definition."""

import functools

import jax
import numpy as np
import pytest

from ptft_jax.model import splash as kernel
from ptft_jax.model.dot_product import EVERYTHING, Seen
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import sharding
from ptft_jax.planning import flops
from tests.helpers import repeats
from tests.model.test_dot_product import (
    ROWS,
    assert_close,
    by_hand,
    made,
    plain,
    random_segments,
    rules,
    value_and_slopes,
)

LENGTH = 150  # two blocks, of which the second is not filled
BLOCK = kernel.LANES


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", BLOCK)


def interpreted(q, k, v, seen, scale=0.3, cap=0.0):
    return kernel.splash(scale, cap, q, k, v, seen, interpret=True)


KNOWN = ["triangle", "both directions", "segments", "a window", "a window in segments"]


def test_which_rules_it_knows():
    known = [name for name, (seen, _) in rules(LENGTH).items() if kernel.takes(seen, LENGTH, LENGTH)]
    assert known == KNOWN
    assert kernel.takes(Seen(shared=3), LENGTH, LENGTH), "of whole rows all are shared"
    assert not kernel.takes(Seen(), BLOCK - 1, BLOCK - 1), "short rows have few scores"
    assert kernel.takes(EVERYTHING, BLOCK, 2 * BLOCK) and not kernel.takes(Seen(), BLOCK, 2 * BLOCK)
    assert not kernel.takes(Seen(first=3), LENGTH, LENGTH) and not kernel.takes(Seen(before=2), LENGTH, LENGTH)


@pytest.mark.parametrize("name", repeats(KNOWN, "a window in segments", "both directions"))
@pytest.mark.parametrize("cap", repeats([0.0, 2.0], 2.0))
def test_each_rule_is_what_it_says(name, cap):
    seen, wanted = rules(LENGTH)[name]
    allowed = np.array([[[wanted(b, t, k) for k in range(LENGTH)] for t in range(LENGTH)] for b in range(ROWS)])
    q, k, v, slope = made(LENGTH)
    got = value_and_slopes(interpreted, q, k, v, slope, seen, cap)
    np.testing.assert_allclose(got[0], by_hand(q, k, v, allowed, 0.3, cap), atol=3e-6)
    assert_close(got, value_and_slopes(plain, q, k, v, slope, seen, cap), 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seen", [EVERYTHING, Seen(causal=False, window=40)], ids=["everything", "a window"])
def test_keys_of_other_rows(seen):
    """As a decoder reads its encoder; windows are of one row alone."""
    keys = 2 * LENGTH if not seen.window else LENGTH
    q, k, v, slope = made(LENGTH, keys=keys)
    got = value_and_slopes(interpreted, q, k, v, slope, seen)
    assert_close(got, value_and_slopes(plain, q, k, v, slope, seen), 2e-6)


@pytest.mark.slow
def test_numbers_of_bfloat16_stay_so():
    q, k, v, slope = made(LENGTH, dtype="bfloat16")
    got = value_and_slopes(interpreted, q, k, v, slope, Seen())
    assert {x.dtype for x in got} == {np.dtype("bfloat16")}
    assert_close(got, value_and_slopes(plain, q, k, v, slope, Seen()), 0.03)  # 8 bits, rounded in other places


@pytest.mark.slow
def test_each_device_has_its_rows_and_heads():
    rows = sharding.Rows(meshes.make(1, 2, jax.devices()[:4], tensor=2))

    def spread(q, k, v, seen, cap=0.0):
        return rows.around(functools.partial(kernel.splash, 0.3, cap, interpret=True), q, k, v, seen)

    q, k, v, slope = made(LENGTH)
    seen, _ = rules(LENGTH)["segments"]
    assert_close(
        value_and_slopes(spread, q, k, v, slope, seen),
        value_and_slopes(plain, q, k, v, slope, seen),
        2e-6,
    )


class Tpus(sharding.Rows):
    """The devices of this machine, as if they were TPUs."""

    platform = "tpu"


@pytest.mark.parametrize("attention, scan, has", [("auto", True, True), ("auto", False, True), ("xla", True, False)])
def test_a_model_on_tpus_has_it(attention, scan, has):
    """Where it was not told otherwise."""
    spec = ModelSpec(vocab_size=8, layers=2, width=16, heads=2, max_length=LENGTH, attention=attention, scan=scan)
    mesh = meshes.make(1, 2, jax.devices()[:2])
    tokens = np.zeros((ROWS, LENGTH), np.int32)

    def text(layout):
        model = Transformer(spec, None, layout)
        return str(jax.make_jaxpr(lambda params: model(params, tokens))(model.shapes()))

    assert ("pallas_call[" in text(Tpus(mesh))) is has
    assert "pallas_call[" not in text(sharding.Rows(mesh)), "these are CPUs"


@pytest.mark.parametrize(
    "seen, blocks",
    [(Seen(), 1 + 2 + 3 + 4), (Seen(window=BLOCK), 1 + 2 + 2 + 2), (Seen(window=BLOCK + 2), 1 + 2 + 3 + 3), (EVERYTHING, 16)],
    ids=["triangle", "a window", "a window that is longer", "everything"],
)  # fmt: skip
def test_a_plan_counts_the_blocks_that_are_carried_out(seen, blocks):
    """Of four in each direction. Forward there are two products, backward seven."""
    q, k, v, slope = made(4 * BLOCK)

    def value(q, k, v):
        return kernel.splash(1.0, 0.0, q, k, v, seen)

    one = 2 * ROWS * q.shape[2] * BLOCK**2 * q.shape[3]  # a product of one block, of all heads and rows
    assert flops.of_jaxpr(jax.make_jaxpr(value)(q, k, v)) == 2 * blocks * one
    back = jax.make_jaxpr(lambda *x: jax.vjp(value, *x)[1](slope))(q, k, v)
    beside = 2 * q.size  # of slopes and values, which are added up outside of kernels
    assert flops.of_jaxpr(back) == 9 * blocks * one + beside


@pytest.mark.slow
def test_what_does_not_fill_a_block_is_no_segment_of_a_row():
    """Also where segments are numbered from 0."""
    segments = random_segments(LENGTH) - 1
    seen = Seen(causal=False, segments=(segments, segments))
    q, k, v, slope = made(LENGTH)
    assert_close(
        value_and_slopes(interpreted, q, k, v, slope, seen), value_and_slopes(plain, q, k, v, slope, seen), 2e-6
    )
