"""Mixtures: every row follows from its place alone, draws miss nothing, and shares are what was asked for."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptft_jax.data import source_weights
from ptft_jax.data.mixture import BITS, Mixture, _tree
from ptft_jax.errors import UserError

NASTY = [1 / 3, 0.1, 1e-6, 1e9, 1.0, 7, 1e-300, 2**-40, 0.7, 0.30000000000000004]


def make(weights, sizes=None, *, batch_size=4, **more):
    names = [f"s{i}" for i in range(len(weights))]
    return Mixture(names, weights, sizes or [1000] * len(weights), batch_size=batch_size, **more)


def sequence(mixture, steps):
    """(source, draw) of all rows of the first steps."""
    rows = [mixture.rows(step) for step in range(steps)]
    return [(int(s), int(d)) for source, draw in rows for s, d in zip(source, draw)]


def weight_at(weight, step):
    """Exactly, from the config."""
    points = [(0, weight)] if isinstance(weight, (int, float)) else list(weight)
    if step <= points[0][0]:
        return Fraction(points[0][1])
    for (a, va), (b, vb) in zip(points, points[1:]):
        if step <= b:
            return Fraction(va) + (Fraction(vb) - Fraction(va)) * Fraction(step - a, b - a)
    return Fraction(points[-1][1])


def one_by_one(weights, tree, rows, batch_size, caps=None):
    """The rows of a mixture drawn one after the other with exact fractions; stops where nothing is left."""
    sources = len(weights)
    saved = [Fraction(1, 2)] * len(tree)
    drawn, out = [0] * sources, []
    for row in range(rows):
        weight = [weight_at(w, row // batch_size) for w in weights]
        if caps:
            weight = [0 if n >= cap else w for w, n, cap in zip(weight, drawn, caps)]
        if not any(weight):
            return out
        for left, right in tree:
            weight.append(weight[left] + weight[right])
        node = sources + len(tree) - 1
        while node >= sources:
            left, right = tree[node - sources]
            saved[node - sources] += Fraction(round(weight[left] / weight[node] * 2**BITS), 2**BITS)
            goes_left = saved[node - sources] >= 1
            saved[node - sources] -= goes_left
            node = left if goes_left else right
        out.append((node, drawn[node]))
        drawn[node] += 1
    return out


numbers = st.sampled_from(NASTY) | st.integers(1, 1000) | st.floats(0.01, 100)


@st.composite
def schedules(draw):
    steps = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=4)))
    return tuple((step, draw(st.sampled_from([0, 0.1, 1, 3]) | st.integers(1, 9))) for step in steps)


mixtures = st.lists(numbers | schedules(), min_size=1, max_size=6)


def valid(weights, steps=80):
    """Whether the weights make a mixture: no source of weight 0, no step without a weight."""
    table = [[weight_at(w, step) for step in range(steps)] for w in weights]
    return all(map(any, table)) and all(map(any, zip(*table)))


@settings(max_examples=60, deadline=None)
@given(weights=mixtures, batch_size=st.integers(1, 5), block=st.sampled_from([1, 3, 4096]))
def test_rows_are_those_drawn_one_by_one(weights, batch_size, block):
    assume(valid(weights))
    mixture = make(weights, batch_size=batch_size)
    mixture._block_steps = block
    assert sequence(mixture, 80) == one_by_one(weights, mixture._children, 80 * batch_size, batch_size)


@settings(max_examples=60, deadline=None)
@given(
    weights=mixtures,
    sizes=st.lists(st.integers(1, 40), min_size=6, max_size=6),
    batch_size=st.integers(1, 5),
    max_epochs=st.sampled_from([0.5, 1, 2]),
    block=st.sampled_from([1, 3, 4096]),
)
def test_epochs_are_limited_to_the_row(weights, sizes, batch_size, max_epochs, block):
    assume(valid(weights))
    sizes = sizes[: len(weights)]
    mixture = make(weights, sizes, batch_size=batch_size, max_epochs=max_epochs)
    mixture._block_steps = block
    caps = [max(1, round(max_epochs * size)) for size in sizes]
    expected = one_by_one(weights, mixture._children, 80 * batch_size, batch_size, caps)
    whole = len(expected) // batch_size
    assert sequence(mixture, whole) == expected[: whole * batch_size]
    assert all(n <= cap for n, cap in zip(mixture.counts(whole), caps))
    if whole < 80:
        for _ in range(2):
            with pytest.raises(UserError, match=f"nothing is left to draw at step {whole}: config.data.max_epochs"):
                mixture.rows(whole)
        with pytest.raises(UserError, match="nothing is left"):
            make(weights, sizes, batch_size=batch_size, max_epochs=max_epochs, steps=80)
    if whole:
        table = make(weights, sizes, batch_size=batch_size, max_epochs=max_epochs).table(whole)
        assert [share.drawn for share in table] == mixture.counts(whole).tolist()


def test_steps_and_shares_of_steps_in_one_weight():
    """How they lie to each other is known when the run's length is."""
    points = ((0, 1.0), (100, 2.0), (0.9, 3.0))
    assert source_weights.weight_at("x", points, 0) == 1.0
    assert source_weights.weight_at("x", points, 500, 1000) == 2.5, "half way from step 100 to step 900"
    with pytest.raises(UserError, match="the steps of x are not in increasing order: 90 follows 100"):
        source_weights.weight_at("x", points, 0, 100)
    with pytest.raises(UserError, match="the steps of x are not in increasing order: 0.2 follows 0.9"):
        source_weights.weight_at("x", (*points, (0.2, 1.0)), 0)


@settings(max_examples=60, deadline=None)
@given(weights=mixtures, order=st.permutations(range(40)), max_epochs=st.sampled_from([0, 3]))
def test_any_order_of_access(weights, order, max_epochs):
    assume(valid(weights))
    forward, jumping = (make(weights, batch_size=3, max_epochs=max_epochs) for _ in range(2))
    jumping._block_steps = 7
    expected = sequence(forward, 40)
    for step in order:
        source, draw = jumping.rows(step)
        assert list(zip(source.tolist(), draw.tolist())) == expected[3 * step : 3 * step + 3]
        before = np.bincount([s for s, _ in expected[: 3 * step]], minlength=len(weights))
        assert jumping.counts(step).tolist() == before.tolist()
    for i in range(len(weights)):
        draws = [d for s, d in expected if s == i]
        assert draws == list(range(len(draws)))


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(numbers, min_size=1, max_size=6),
    split=st.sampled_from([(1, 60), (2, 30), (12, 5), (60, 1)]),
    max_epochs=st.sampled_from([0, 1.5]),
)
def test_constant_weights_do_not_see_the_batch_size(weights, split, max_epochs):
    sizes = [10, 30, 20, 7, 100, 60][: len(weights)]
    sizes[0] += 60  # enough for all of the run
    batch_size, steps = split
    ours = make(weights, sizes, batch_size=batch_size, max_epochs=max_epochs)
    theirs = make(weights, sizes, batch_size=5, max_epochs=max_epochs)
    assert sequence(ours, steps) == sequence(theirs, 12)


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(numbers, min_size=1, max_size=9))
def test_constant_weights_are_kept_to_the_row(weights):
    drawn = np.asarray([s for s, _ in sequence(make(weights, batch_size=200), 2)])
    counts = np.cumsum(drawn[:, None] == np.arange(len(weights)), 0)
    total = sum(map(Fraction, weights))
    expected = np.arange(1, 401)[:, None] * np.asarray([float(Fraction(w) / total) for w in weights])
    bound = {1: 0, 2: 1 / 2, 3: 1}.get(len(weights), 1.68)
    assert np.abs(counts - expected).max() <= bound + 400 * 4 * 2**-BITS


@settings(max_examples=60, deadline=None)
@given(weight=schedules())
def test_two_sources_stay_half_a_row_from_a_schedule(weight):
    assume(any(value for _, value in weight))
    drawn = np.asarray([s for s, _ in sequence(make([weight, 2], batch_size=3), 80)])
    shares = [weight_at(weight, row // 3) / (weight_at(weight, row // 3) + 2) for row in range(240)]
    expected = np.cumsum([float(share) for share in shares])
    assert np.abs(np.cumsum(drawn == 0) - expected).max() <= 0.5 + 1e-6


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.integers(1, 1000), min_size=2, max_size=12))
def test_the_tree_joins_the_lightest_first(weights):
    weight, open_nodes = list(weights), set(range(len(weights)))
    for left, right in _tree(weights):
        two = sorted(weight[node] for node in open_nodes)[:2]
        assert sorted([weight[left], weight[right]]) == two
        open_nodes -= {left, right}
        open_nodes.add(len(weight))
        weight.append(sum(two))
    assert len(open_nodes) == 1 and weight[-1] == sum(weights)


@pytest.mark.parametrize("anneal", [False, True])
def test_a_long_run_is_exact_at_its_end(anneal):
    steps, batch_size = 1_000_000, 256
    weights = [1 / 3, 0.1, 1e-6, 1e9, 0.7e9] + [((0, 0), (steps, 1e9))] * anneal
    mixture = make(weights, batch_size=batch_size, steps=steps)
    fresh = make(weights, batch_size=batch_size)
    for step in (999_999, 0, 4095, 4096, 500_001):
        source, draw = fresh.rows(step)
        before, after = mixture.counts(step), mixture.counts(step + 1)
        assert (after - before).tolist() == np.bincount(source, minlength=len(weights)).tolist()
        for i in range(len(weights)):
            assert draw[source == i].tolist() == list(range(before[i], after[i]))
    assert mixture.counts(steps).sum() == steps * batch_size
    if not anneal:
        total = sum(map(Fraction, weights))
        for n, weight in zip(mixture.counts(steps).tolist(), weights):
            rounding = steps * batch_size * 4 * Fraction(1, 2 ** (BITS + 1))  # of shares, on a path of 4 nodes
            assert abs(n - steps * batch_size * Fraction(weight) / total) <= Fraction(168, 100) + rounding
    else:
        for share in mixture.table(steps):
            assert abs(share.drawn - share.asked * steps * batch_size) < 3
    assert all(len(begin[0]) < 10 for begin in mixture._begins.values()) and len(mixture._begins) < 300


def test_more_steps_do_not_change_the_first():
    weights = [1, ((10, 0), (20, 2)), ((5, 3), (40, 0))]
    assert sequence(make(weights, steps=30), 30) == sequence(make(weights, steps=1000), 30)


def test_stages():
    replay = make([((0, 1), (9, 1), (10, 0.1)), ((9, 0), (10, 0.9))], batch_size=10)
    assert replay.counts(10).tolist() == [100, 0]
    assert (replay.counts(20) - replay.counts(10)).tolist() == [10, 90]
    for step in range(10, 20):
        assert np.bincount(replay.rows(step)[0]).tolist() == [1, 9]


def test_the_rest_share_what_a_read_source_leaves():
    mixture = make([2, 1, 1], [10, 1000, 1000], batch_size=4, max_epochs=2, steps=100)
    assert mixture.counts(10).tolist() == [20, 10, 10]
    assert mixture.counts(100).tolist() == [20, 190, 190]


def test_weights_run_out_after_a_source_has():
    weights = [((0, 1), (20, 0))] * 2
    mixture = make(weights, [8, 1000], batch_size=4, max_epochs=1)
    expected = one_by_one(weights, mixture._children, 80, 4, [8, 1000])
    assert sequence(mixture, 20) == expected and len(expected) == 80
    assert mixture.counts(20).tolist() == [8, 72]
    for step in (20, 50_000):
        with pytest.raises(
            UserError, match="left to draw at step 20: .*\n  s0: 8 rows; the others have weight 0 there: s1"
        ):
            mixture.rows(step)


def test_temperature():
    sizes = [100, 1600, 6400]
    for temperature, weights in [(1, [1, 16, 64]), (2, [1, 4, 8]), (1e12, [1, 1, 1])]:
        ours = make([1, 1, 1], sizes, temperature=temperature)
        shares = [share.asked for share in ours.table(10)]
        assert shares == pytest.approx([w / sum(weights) for w in weights], rel=1e-9)
    assert sequence(make([2, 1, 3], sizes, temperature=2), 50) == sequence(make([2, 4, 24], sizes), 50)


def test_the_table():
    table = make([3, ((0, 0), (100, 2))], [50, 1000], batch_size=2, max_epochs=1, steps=100).table(100)
    first, second = table
    asked = sum(3 / (3 + 2 * step / 100) for step in range(100)) / 100
    assert first.asked == pytest.approx(asked) and second.asked == pytest.approx(1 - asked)
    assert (first.name, first.size, first.drawn, first.share, first.epochs) == ("s0", 50, 50, 0.25, 1.0)
    assert (second.name, second.size, second.drawn, second.share, second.epochs) == ("s1", 1000, 150, 0.75, 0.15)


def test_workers_get_the_same_mixture():
    mixture = make([1, 2, ((3, 1), (9, 0))], steps=50)
    assert sequence(pickle.loads(pickle.dumps(mixture)), 50) == sequence(mixture, 50)


@pytest.mark.parametrize(
    "weights, more, message",
    [
        ([], {}, "names no source"),
        ([1, -1], {}, "the weight of s1 cannot be -1"),
        ([1, float("nan")], {}, "the weight of s1 cannot be nan"),
        ([1, float("inf")], {}, "the weight of s1 cannot be inf"),
        ([1, "2"], {}, r"the weight of s1 is a number or \(\(step, weight\), ...\), not '2'"),
        ([1, True], {}, "the weight of s1 is a number"),
        ([1, ()], {}, "the weight of s1 is a number"),
        ([1, ((0, 1, 2),)], {}, "the weight of s1 is a number"),
        ([1, ((1.5, 1),)], {}, "s1: 1.5 is not a step"),
        ([1, ((-1, 1),)], {}, "s1: -1 is not a step"),
        ([1, ((5, 1), (3, 1))], {}, "the steps of s1 are not in increasing order: 3 follows 5"),
        ([1, ((5, 1), (5, 2))], {}, "the steps of s1 are not in increasing order: 5 follows 5"),
        ([1, 0], {}, "the weight of s1 is 0 during the whole run"),
        ([1, ((9, 0), (20, 1))], {"steps": 10}, "the weight of s1 is 0 during the whole run"),
        ([((0, 1), (7, 0))], {"steps": 20}, "all weights are 0 at step 7"),
        ([((0, 1), (7, 0)), ((15, 0), (16, 1))], {"steps": 20}, "all weights are 0 at step 7"),
        ([1, 1], {"steps": 51, "max_epochs": 1, "sizes": [100, 100]}, "s0: 100 rows\n  s1: 100 rows\nAllow"),
        ([1, ((9, 1), (10, 0))], {"steps": 9999, "max_epochs": 1}, "s0: 1000 rows; the others have .* there: s1\n"),
        ([1, 1], {"sizes": [10, 0]}, "s1 has no rows"),
        ([1, 1], {"sizes": [1, 10**9], "temperature": 0.001}, "config.data.temperature = 0.001 leaves nothing of s0"),
    ],
)
def test_what_cannot_be_drawn(weights, more, message):
    with pytest.raises(UserError, match=message) as error:
        make(weights, **more)
    assert "config.data." in str(error.value)


def test_what_can_just_be_drawn():
    assert make([1, ((8, 0), (20, 1))], steps=10).counts(10).sum() == 40
    assert make([((0, 1), (7, 0))], steps=7).counts(7).tolist() == [28]
    assert make([1, 1], [100, 100], steps=50, max_epochs=1).counts(50).tolist() == [100, 100]


def test_a_source_is_named_once():
    with pytest.raises(UserError, match="config.data.mixture names a source more than once: a;"):
        Mixture(["a", "b", "a"], [1, 1, 1], [5, 5, 5], batch_size=2)
