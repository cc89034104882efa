"""Attention as each platform carries it out, beside the sum over keys that it is by definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model import dot_product
from ptft_jax.model.dot_product import EVERYTHING, Seen, Span, attention
from tests.helpers import repeats

ROWS, KV, GROUPS, SIZE = 2, 2, 2, 8
TRIANGLE = Seen()


def made(length, keys=None, groups=GROUPS, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((length, KV * groups), (keys or length, KV), (keys or length, KV), (length, KV * groups))
    return [jnp.asarray(rng.standard_normal((ROWS, *shape, SIZE)), dtype) for shape in shapes]


def by_hand(q, k, v, allowed, scale, cap):
    """Query by query, in float64; `allowed` as numpy [B, T, S]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        head = n * k.shape[2] // q.shape[2]
        own = np.flatnonzero(allowed[b, t])
        if not len(own):
            continue
        scores = k[b, own, head] @ q[b, t, n] * scale
        scores = cap * np.tanh(scores / cap) if cap else scores
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, own, head] / weights.sum()
    return out


def random_segments(length):
    return jnp.asarray(np.sort(np.random.default_rng(1).integers(1, 4, (ROWS, length)), axis=1))


def rules(length):
    """By name: the rules, and what they come to for a query and a key of a row."""
    segments = random_segments(length)
    prefix = jnp.arange(length)[None] < jnp.asarray([[length // 3], [length // 2]])
    s, p = np.asarray(segments), np.asarray(prefix)
    return {
        "triangle": (Seen(), lambda b, t, k: k <= t),
        "both directions": (EVERYTHING, lambda b, t, k: True),
        "segments": (Seen(segments=(segments, segments)), lambda b, t, k: k <= t and s[b, t] == s[b, k]),
        "a shared start": (
            Seen(shared=3, segments=(segments, segments)),
            lambda b, t, k: k <= t and (s[b, t] == s[b, k] or k < 3),
        ),
        "a window": (Seen(window=9), lambda b, t, k: k <= t < k + 9),
        "a window of one program for several": (Seen(reach=jnp.int32(9)), lambda b, t, k: k <= t < k + 9),
        "none of one program for several": (Seen(reach=jnp.int32(0)), lambda b, t, k: k <= t),
        "a window in segments": (
            Seen(window=30, segments=(segments, segments)),
            lambda b, t, k: k <= t < k + 30 and s[b, t] == s[b, k],
        ),
        "a prefix in both directions": (
            Seen(prefix=(prefix, prefix), window=50),
            lambda b, t, k: (k <= t or (p[b, t] and p[b, k])) and abs(t - k) < 50,
        ),
    }


def blocked(q, k, v, seen, scale=0.3, cap=0.0):
    return attention(q, k, v, seen, scale=scale, cap=cap)


def plain(q, k, v, seen, scale=0.3, cap=0.0):
    return dot_product._plain(scale, cap, q, k, v, seen)


@functools.partial(jax.jit, static_argnames=("function", "cap"))
def value_and_slopes(function, q, k, v, slope, seen, cap=0.0):
    out, pull = jax.vjp(functools.partial(function, seen=seen, cap=cap), q, k, v)
    return out, *pull(slope)


def assert_close(first, second, atol):
    for one, other in zip(first, second, strict=True):
        scale = float(jnp.abs(other.astype(jnp.float32)).max())
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), atol=atol * scale, rtol=0)


def runs_blocked(length, seen):
    """Whether XLA's CPU program is another than that of the formula."""
    q, k, v, _ = made(length)
    return "custom_vjp_call" in str(jax.make_jaxpr(functools.partial(blocked, seen=seen))(q, k, v))


@pytest.mark.parametrize("name", repeats(rules(4), "triangle", "a window in segments", "a prefix in both directions"))
def test_each_rule_is_what_it_says(name):
    length = 131  # blocks do not divide it
    seen, wanted = rules(length)[name]
    expected = np.array([[[wanted(b, t, k) for k in range(length)] for t in range(length)] for b in range(ROWS)])
    whole = Span(0, length)
    np.testing.assert_array_equal(np.broadcast_to(seen.allowed(whole, whole), expected.shape), expected)
    part = seen.allowed(Span(40, 70), Span(10, 70))
    np.testing.assert_array_equal(np.broadcast_to(part, (ROWS, 30, 60)), expected[:, 40:70, 10:70])
    q, k, v, slope = made(length)
    assert runs_blocked(length, seen)
    got = value_and_slopes(blocked, q, k, v, slope, seen)
    np.testing.assert_allclose(got[0], by_hand(q, k, v, expected, 0.3, 0.0), atol=3e-6)
    assert_close(got, value_and_slopes(plain, q, k, v, slope, seen), 2e-6)


def repeated(cases, *kept):
    """As `repeats`, of several parameters."""
    return [pytest.param(*case, marks=[] if case in kept else pytest.mark.slow) for case in cases]


SIMPLE, CAPPED, NARROW = (1, 0.0, "float32"), (3, 2.0, "float32"), (2, 0.0, "bfloat16")
CASES = [(length, *how) for length in (1, 63, 64, 65, 257) for how in (SIMPLE, CAPPED, NARROW)]


@pytest.mark.parametrize("length, groups, cap, dtype", repeated(CASES, (65, *CAPPED), (65, *NARROW)))
def test_lengths_caps_and_types(length, groups, cap, dtype):
    q, k, v, slope = made(length, groups=groups, dtype=dtype)
    got = value_and_slopes(blocked, q, k, v, slope, Seen(), cap)
    assert all(x.dtype == jnp.dtype(dtype) for x in got)
    # bfloat16 has 8 bits; what the two forms round to it is not the same.
    assert_close(got, value_and_slopes(plain, q, k, v, slope, Seen(), cap), 2e-6 if dtype == "float32" else 0.02)
    if dtype == "float32":
        allowed = np.broadcast_to(np.tri(length, dtype=bool), (ROWS, length, length))
        np.testing.assert_allclose(got[0], by_hand(q, k, v, allowed, 0.3, cap), atol=3e-6)


@pytest.mark.parametrize("window", repeats((0, 40), 40))
def test_keys_of_a_learned_prefix(window):
    """They are at positions 0 to 4 of every row; the row's own begin at 5, and again at 5 in its second text."""
    length, before = 130, 5
    segments = jnp.asarray(np.arange(length) >= 70)[None].repeat(ROWS, 0)
    positions = jnp.asarray(before + np.where(np.arange(length) < 70, np.arange(length), np.arange(length) - 70))[None]
    q, k, v, slope = made(length, before + length)
    seen = Seen(before=before, window=window, segments=(segments, segments), positions=positions)
    own = np.tri(length, dtype=bool) & (np.asarray(segments)[0][:, None] == np.asarray(segments)[0][None])
    far = np.arange(length)[:, None] - np.arange(length)[None]
    first = np.asarray(positions)[0][:, None] - np.arange(before)[None]
    allowed = np.concatenate([first < (window or length * 2), own & (far < (window or length))], axis=1)
    got = value_and_slopes(blocked, q, k, v, slope, seen)
    np.testing.assert_allclose(got[0], by_hand(q, k, v, np.stack([allowed] * ROWS), 0.3, 0.0), atol=3e-6)
    assert_close(got, value_and_slopes(plain, q, k, v, slope, seen), 2e-6)


@pytest.mark.parametrize("length, first", repeated([(1, 90), (70, 20), (70, None)], (70, 20)))
def test_a_cache_that_is_longer_than_what_is_new(length, first):
    """As a ready list of slots, without those before a row's first token, and as rules."""
    slots, start = 100, first or 0
    q, k, v, slope = made(length, slots)
    triangle = np.arange(slots) <= start + np.arange(length)[:, None]
    at = None if first is None else jnp.int32(first)
    listed = triangle[None] & (np.arange(slots) >= np.array([[0], [3]]))[:, None]
    for seen, allowed in (
        (Seen(causal=False, listed=jnp.asarray(listed), first=at), listed),
        (Seen(first=at), np.stack([triangle] * ROWS)),
    ):
        got = np.asarray(value_and_slopes(blocked, q, k, v, slope, seen)[0])
        some = allowed.any(-1)
        np.testing.assert_allclose(got[some], by_hand(q, k, v, allowed, 0.3, 0.0)[some], atol=3e-6)


def test_a_query_that_sees_nothing_is_finite_and_teaches_nothing():
    length = 128
    q, k, v, slope = made(length)
    segments = jnp.ones((ROWS, length), jnp.int32)
    seen = Seen(segments=(segments.at[:, 100].set(2), segments))
    out, of_q, _, _ = value_and_slopes(blocked, q, k, v, slope, seen)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(of_q[:, 100], 0)
    whole = Seen(segments=(segments, segments))
    kept = value_and_slopes(blocked, q, k, v, slope.at[:, 100].set(0), whole)
    lost = value_and_slopes(blocked, q, k, v, slope.at[:, 100].set(0), seen)
    assert_close(lost[2:], kept[2:], 2e-6)


@pytest.mark.heavy
def test_derivatives_of_rows_apart_and_of_second_order():
    """As Fisher information takes them (a gradient a row), and products with the Hessian."""
    q, k, v, slope = made(128)
    segments = random_segments(128)

    def loss(function, q, k, v, slope, segments):
        return jnp.sum(jnp.tanh(function(q[None], k[None], v[None], Seen(segments=(segments[None],) * 2))) * slope)

    def measured(function):
        own = functools.partial(loss, function)
        rows = jax.vmap(jax.grad(own, argnums=(0, 1, 2)))(q, k, v, slope, segments)
        first = jax.grad(lambda q: own(q, k[0], v[0], slope[0], segments[0]))
        return [*rows, jax.jvp(first, (q[0],), (slope[0],))[1], jax.vjp(first, q[0])[1](slope[0])[0]]

    assert_close(jax.jit(lambda: measured(blocked))(), jax.jit(lambda: measured(plain))(), 1e-5)


def test_other_platforms_have_the_formula():
    """One traced program, lowered for either: the CPU's has no score of a key that comes after a block's queries."""
    q, k, v, _ = made(256)
    program = jax.jit(functools.partial(blocked, seen=Seen())).trace(q, k, v)
    cpu, tpu = (program.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu"))
    assert "x256x256x" in tpu and "x64x64xf32" not in tpu
    assert "x256x256x" not in cpu and "x128x64xf32" in cpu


@pytest.mark.parametrize("name", ["triangle", "both directions", "a window"])
def test_rules_in_the_words_of_the_library(name):
    """What cuDNN is given in place of a mask, as the library's own formula reads it; the other rules have no words."""
    length = 70
    every = rules(length)
    seen, allowed = every[name]
    q, k, v, _ = made(length)
    assert seen.as_words is not None
    got = jax.nn.dot_product_attention(q, k, v, scale=0.3, **seen.as_words, implementation="xla")
    mask = np.array([[[allowed(b, t, s) for s in range(length)] for t in range(length)] for b in range(ROWS)])
    np.testing.assert_allclose(got, by_hand(q, k, v, mask, 0.3, 0.0), atol=3e-6)
    assert {n for n, (s, _) in every.items() if s.as_words is not None} == {"triangle", "both directions", "a window"}
    assert Seen(causal=False, window=9).as_words is None and Seen(before=2).as_words is None


def test_only_a_gpu_is_given_what_only_a_gpu_has(monkeypatch):
    """Where cuDNN stands in by a marker: its program is that of bfloat16 on CUDA, without a cap or a mask; asked for XLA's, none."""
    monkeypatch.setattr(dot_product, "_fused", lambda scale, q, k, v, seen: jnp.arctan2(q, q))
    length = 128
    segments = random_segments(length)

    def fused_on(dtype="bfloat16", seen=TRIANGLE, platforms=("cpu", "cuda", "tpu", "rocm"), **how):
        q, k, v, _ = made(length, dtype=dtype)
        program = jax.jit(lambda *x: attention(*x, seen, scale=0.3, **how)).trace(q, k, v)
        return [name for name in platforms if "atan2" in program.lower(lowering_platforms=(name,)).as_text()]

    assert fused_on() == ["cuda"] and fused_on(seen=Seen(window=9)) == ["cuda"]
    assert not fused_on(dtype="float32", platforms=("cuda",)) and not fused_on(cap=5.0, platforms=("cuda",))
    assert not fused_on(seen=Seen(segments=(segments, segments)), platforms=("cuda",))
    assert not fused_on(implementation="xla", platforms=("cuda",))


def test_without_cudnn_nothing_changes(monkeypatch):
    """Nor where it takes a size, but not its gradient."""

    def absent(*_):
        raise RuntimeError("cuDNN is not detected.")

    @jax.custom_vjp
    def one_way(q):
        return q

    def refused(*_):
        raise NotImplementedError("Unsupported sequence length")

    one_way.defvjp(lambda q: (q, None), refused)
    for fused in (absent, lambda scale, q, k, v, seen: one_way(q)):
        monkeypatch.setattr(dot_product, "_fused", fused)
        as_with_xla()


def as_with_xla():
    q, k, v, _ = made(128, dtype="bfloat16")
    both = [
        jax.jit(lambda *x, how=how: attention(*x, Seen(), scale=0.3, implementation=how)) for how in ("auto", "xla")
    ]
    first, second = (f.lower(q, k, v).as_text() for f in both)
    assert first == second
