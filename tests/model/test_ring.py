"""Attention around a ring of devices, beside the sum over keys that it is by definition."""

import functools

import jax
import numpy as np
import pytest

from ptft_jax.model import ring as rings
from ptft_jax.model.dot_product import EVERYTHING, Seen
from ptft_jax.parallel import cost, sharding
from ptft_jax.parallel import mesh as meshes
from tests.helpers import repeats
from tests.model.test_dot_product import ROWS, assert_close, by_hand, made, plain, rules, value_and_slopes

LENGTH = 48


@functools.cache
def around(parts, fsdp=1, tensor=1, chunk=rings.CHUNK):
    """The ring as a function of whole arrays; `chunk` tells apart what is compiled with other ones."""
    count = parts * fsdp * tensor
    rows = sharding.Rows(meshes.make(1, fsdp, jax.devices()[:count], context=parts, tensor=tensor))

    def function(q, k, v, seen, scale=0.3, cap=0.0):
        return rows.around(functools.partial(rings.ring, parts, scale, cap), q, k, v, seen)

    return function


RULES = [name for name in rules(4) if name != "a shared start"]  # which comes with learned vectors alone


@pytest.mark.parametrize(
    "name, parts",
    [
        (name, parts) if keep else pytest.param(name, parts, marks=pytest.mark.slow)
        for name in RULES
        for parts, keep in ((2, False), (4, name in ("a window in segments", "a prefix in both directions")))
    ],
)
@pytest.mark.parametrize("cap", repeats([0.0, 2.0], 2.0))
def test_each_rule_is_what_it_says(name, parts, cap, monkeypatch):
    """With chunks that do not divide a part."""
    monkeypatch.setattr(rings, "CHUNK", 5)
    seen, wanted = rules(LENGTH)[name]
    allowed = np.array([[[wanted(b, t, k) for k in range(LENGTH)] for t in range(LENGTH)] for b in range(ROWS)])
    q, k, v, slope = made(LENGTH)
    got = value_and_slopes(around(parts, chunk=rings.CHUNK), q, k, v, slope, seen, cap)
    np.testing.assert_allclose(got[0], by_hand(q, k, v, allowed, 0.3, cap), atol=3e-6)
    assert_close(got, value_and_slopes(plain, q, k, v, slope, seen, cap), 2e-6)


@pytest.mark.slow
def test_rows_and_heads_are_divided_beside_it():
    q, k, v, slope = made(LENGTH)
    seen, _ = rules(LENGTH)["segments"]
    assert_close(
        value_and_slopes(around(2, fsdp=2, tensor=2), q, k, v, slope, seen),
        value_and_slopes(plain, q, k, v, slope, seen),
        2e-6,
    )


@pytest.mark.slow
def test_numbers_of_bfloat16_stay_so():
    q, k, v, slope = made(LENGTH, dtype="bfloat16")
    got = value_and_slopes(around(4), q, k, v, slope, Seen())
    assert {x.dtype for x in got} == {np.dtype("bfloat16")}
    assert_close(got, value_and_slopes(plain, q, k, v, slope, Seen()), 0.03)


@pytest.mark.parametrize(
    "seen, handed_on",
    [
        (EVERYTHING, 7),
        (Seen(), 7),
        pytest.param(Seen(window=6), 1, marks=pytest.mark.slow),
        (Seen(window=7), 1),
        (Seen(window=8), 2),
    ],
    ids=str,
)
def test_keys_go_as_far_as_a_window_reaches(seen, handed_on):
    """Parts of 6 positions: the first query of one reaches `window` - 1 positions back."""
    q, k, v, _ = made(LENGTH)
    text = jax.jit(functools.partial(around(8), seen=seen)).lower(q, k, v).compile().as_text()
    sent = [one for one in cost.parse(text).collectives()]
    assert {one.kind for one in sent} == {"collective-permute"}
    numbers = sum(one.times * sum(np.prod(shape, dtype=int) for shape in one.shapes if shape) for one in sent)
    assert numbers in (
        handed_on * 2 * k.size // 8,
        2 * handed_on * 2 * k.size // 8,
    )  # of some backends with what is sent
