"""Batches: any step by itself, the same rows for any number of processes, evaluation of everything once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import batches, packing
from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.builders.masked import Masked
from ptft_jax.data.mixture import Mixture
from ptft_jax.data.rows import RowSet
from ptft_jax.data.store import Store

LENGTH = 16


def tokens(lengths, first=0, trained=None):
    """Sequences of these lengths; their ids count up from `first`, so that each is known by its value."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = first + np.arange(offsets[-1], dtype=np.uint16)
    return Store(ids, offsets, trained, None, np.arange(len(lengths)), f"key{first}")


def row_set(store, how="concat", builder=None, length=LENGTH, partial=False, overlong="split", segmented=None):
    builder = builder or Causal()
    plan = packing.plan(
        store.offsets, length, how=how, overlong=overlong, slots=builder.slots, overlap=builder.overlap, seed=0,
        where=str, partial=partial,
    )  # fmt: skip
    return RowSet(store, plan, builder, length, how != "concat" if segmented is None else segmented)


def mixed(sets, weights, **options):
    return Mixture([f"s{i}" for i in range(len(sets))], weights, [len(s) for s in sets], **options)


def stream(sets, mixture, process=0, processes=1, batch_size=8, seed=3):
    return batches.Batches(sets, mixture, batch_size=batch_size, seed=seed, process=process, processes=processes)


def packed_sets(seed=0):
    rng = np.random.default_rng(seed)
    sets = [
        row_set(tokens(rng.integers(2, 40, 60), 0), "best_fit"),
        row_set(tokens(rng.integers(2, 9, 80), 9000), "first_fit"),
    ]
    return sets, mixed(sets, [1.0, ((0, 0.0), (20, 3.0))], batch_size=8)


def test_any_step_by_itself():
    sets, mixture = packed_sets()
    one = stream(sets, mixture)
    run = batches.training(sets, mixture, batch_size=8, seed=3, start=0, prefetch=2)
    for step in range(6):
        followed = next(run)
        alone = one[step]
        assert set(alone) == {"inputs", "targets", "weights", "positions", "segments"}
        for name in alone:
            np.testing.assert_array_equal(followed[name], alone[name])
    resumed = batches.training(sets, mixture, batch_size=8, seed=3, start=4, prefetch=0)
    np.testing.assert_array_equal(next(resumed)["inputs"], one[4]["inputs"])
    assert not np.array_equal(stream(sets, mixture, seed=4)[0]["inputs"], one[0]["inputs"])


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_each_batch_row_by_row(processes):
    sets, mixture = packed_sets()
    alone = stream(sets, mixture)
    parts = [stream(sets, mixture, p, processes) for p in range(processes)]
    for step in (0, 7, 300):
        whole = np.concatenate([part[step]["inputs"] for part in parts])
        np.testing.assert_array_equal(whole, alone[step]["inputs"])
    with pytest.raises(ValueError, match="do not divide"):
        stream(sets, mixture, 0, 3)


def test_the_sequence_of_examples_does_not_depend_on_the_batch_size():
    sets, _ = packed_sets()
    rows = {}
    for size in (4, 8):
        made = stream(sets, mixed(sets, [2.0, 1.0], batch_size=size), batch_size=size)
        rows[size] = np.concatenate([made[k]["inputs"] for k in range(48 // size)])
    np.testing.assert_array_equal(rows[4], rows[8])


def test_an_epoch_has_every_target_once_and_the_next_another_order():
    store = tokens(np.random.default_rng(1).integers(2, 60, 50))
    sets = [row_set(store, "best_fit")]
    made = stream(sets, mixed(sets, [1.0], batch_size=1), batch_size=1)
    epochs = []
    for epoch in range(2):
        rows = [made[epoch * len(sets[0]) + k] for k in range(len(sets[0]))]
        seen = np.concatenate([r["targets"][r["weights"] > 0] for r in rows])
        assert sorted(seen) == sorted(set(store.ids.tolist()) - set(store.offsets[:-1].tolist()))
        epochs.append([tuple(r["inputs"][0]) for r in rows])
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_packed_rows_keep_what_belongs_together(data):
    lengths = data.draw(st.lists(st.integers(2, 30), min_size=1, max_size=12))
    total = sum(lengths)
    trained = np.asarray(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    store = tokens(lengths, 0, trained)
    rows = row_set(store, data.draw(st.sampled_from(["none", "first_fit", "best_fit"])))
    for i in range(len(rows)):
        row = rows.row(i)
        for segment in range(1, row["segments"].max() + 1):
            at = np.flatnonzero(row["segments"] == segment)
            ids = np.append(row["inputs"][at], row["targets"][at][-1])
            assert np.array_equal(np.diff(at), np.ones(len(at) - 1)), "a piece is in one place"
            assert np.array_equal(row["targets"][at][:-1], row["inputs"][at][1:])
            assert np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids)))
            assert row["positions"][at].tolist() == list(range(len(at)))
            assert row["weights"][at].tolist() == trained[ids[1:]].tolist()
        assert not row["weights"][row["segments"] == 0].any()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_made_at_once_are_those_made_one_by_one(data):
    lengths = data.draw(st.lists(st.integers(2, 40), min_size=1, max_size=12))
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)))
    store = tokens(lengths, 0, None if mask is None else np.asarray(mask))
    how, segmented = data.draw(
        st.sampled_from([("concat", False), ("concat", True), ("none", True), ("best_fit", True)])
    )
    rows = row_set(store, how, partial=True, segmented=segmented)
    which = np.asarray(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5)))
    made = rows.batch(which, [()] * len(which))
    for k, i in enumerate(which):
        alone = rows.row(int(i))
        assert set(alone) == set(made)
        for name, values in alone.items():
            np.testing.assert_array_equal(made[name][k], values)
            assert made[name].dtype == values.dtype


def test_what_is_random_about_a_row_follows_from_its_place():
    builder = Masked(mask_id=1, marks=bytes(600), rate=0.3)
    sets = [row_set(tokens([500]), builder=builder, segmented=True)]
    mixture = mixed(sets, [1.0], batch_size=4)
    one, again = stream(sets, mixture, batch_size=4), stream(sets, mixture, batch_size=4)
    np.testing.assert_array_equal(one[5]["weights"], again[5]["weights"])
    rows = len(sets[0])
    alone = stream(sets, mixed(sets, [1.0], batch_size=1), batch_size=1)
    by_row: dict = {}
    for k in range(2 * rows):
        by_row.setdefault(tuple(alone[k]["targets"][0]), []).append(alone[k]["weights"][0])
    assert all(len(v) == 2 for v in by_row.values())
    assert any(not np.array_equal(*v) for v in by_row.values()), "masked again in the next epoch"
    halves = [stream(sets, mixture, p, 2, batch_size=4)[5]["weights"] for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), one[5]["weights"])


@pytest.mark.parametrize("how", ["concat", "best_fit", "none"])
def test_evaluation_has_everything_once(how):
    store = tokens([30, 12, 7, 52])
    rows = row_set(store, how, partial=True)
    made = batches.evaluation(rows, batch_size=4, tokens=0)
    seen = np.concatenate([b["targets"][b["weights"] > 0] for b in made])
    firsts = {0} if how == "concat" else set(store.offsets[:-1].tolist())
    assert sorted(seen) == sorted(set(range(101)) - firsts)
    assert {b["inputs"].shape for b in made} == {(4, LENGTH)}
    few = batches.evaluation(rows, batch_size=4, tokens=LENGTH)
    assert sum(int((b["weights"].sum(1) > 0).sum()) for b in few) == 1


def test_a_mixed_batch_takes_rows_from_every_source():
    sets = [row_set(tokens([200]), segmented=True), row_set(tokens([4] * 40, 9000), "best_fit")]
    made = stream(sets, mixed(sets, [3.0, 1.0], batch_size=8))[2]
    large = made["inputs"][:, 0] >= 9000
    assert large.sum() == 2 and made["segments"][large].max() > 1 and made["segments"][~large].max() == 1


def test_no_order_of_one_seed_is_one_of_another():
    """Orders of many seeds, sources and epochs: as permutations drawn at random, all differ, and agree in one place on
    average, whatever is added to the seed, the source's number or the epoch."""
    rows = 64
    orders = {}
    for seed in (0, 1, 2, 1000, 1001, 2000):
        for source in range(3):
            order = batches.Order(rows, seed, source)
            for epoch in range(3):
                orders[seed, source, epoch] = [order[epoch * rows + k] for k in range(rows)]
    assert all(sorted(order) == list(range(rows)) for order in orders.values())
    found = list(orders.values())
    agree = np.asarray([[np.mean(np.equal(a, b)) * rows for b in found] for a in found])
    off = agree[~np.eye(len(found), dtype=bool)]
    assert off.max() < 12 and abs(off.mean() - 1) < 0.3
    again = batches.Order(rows, 1000, 1)
    assert [again[2 * rows + k] for k in range(rows)] == orders[1000, 1, 2]


@pytest.mark.parametrize("shift", [1, 1000, 2**16])
def test_a_source_at_another_seed_is_another(shift):
    """Two sources of the same rows: what is drawn of the second at a seed is not what is drawn of the first at that seed and
    something more."""
    sets = [row_set(tokens([4] * 40, 9000 * n), "best_fit") for n in range(2)]
    drawn = {}
    for seed in (3, 3 + shift):
        made = stream(sets, mixed(sets, [1.0, 1.0], batch_size=8), seed=seed)
        places = [made.addresses(step) for step in range(6)]
        for source in range(2):
            drawn[seed, source] = [int(row) for which, rows in places for s, row in zip(which, rows) if s == source]
    assert len({tuple(rows) for rows in drawn.values()}) == 4


def test_seeds_are_mixed_by_a_hash():
    """Of thousands of places no two share a seed but by the chance of 32 bits, whatever their sums."""
    from ptft_jax.config.seeds import Use, mixed

    places = [(s, use, a, b) for s in range(20) for use in Use for a in range(20) for b in range(10)]
    assert len({mixed(*place) for place in places}) > len(places) - 3
    assert mixed(3, Use.ORDER, 1, 0) != mixed(1003, Use.ORDER, 0, 0) and mixed(3, Use.ORDER, 0, 1) != mixed(
        4, Use.ORDER, 0, 0
    )
    assert 0 <= mixed(2**80, Use.ANSWER, 1) < 2**32


def test_orders_are_grains_own_many_at_a_time():
    """Number for number, around the sizes at which the blocks of the cipher grow, and where it walks."""
    from grain.experimental import index_shuffle

    from ptft_jax.data import orders

    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 5, 257, 2**16, 2**16 + 1, 2**16 + 2, 2**18 + 3, 10**6, 2**31, 2**33 + 5):
        places = np.unique(rng.integers(0, count, 40))
        for seed in (0, 1, 2**32 - 1):
            expected = [index_shuffle(int(k), max_index=count - 1, seed=seed, rounds=4) for k in places]
            if count == 2**16 + 1:  # where grain's leaves out the last
                assert np.unique(orders.shuffled(np.arange(count), count, seed)).size == count
            else:
                assert orders.shuffled(places, count, seed).tolist() == expected, (count, seed)
    order = batches.Order(7, 5, 1)
    draws = rng.integers(0, 30, 20)  # of several epochs, in any order
    assert order.rows(draws).tolist() == [order[int(k)] for k in draws]


def test_orders_of_batches_never_change():
    """They are not stored in checkpoints but made again. The first epoch of a first source is grain's own shuffle."""
    import grain

    order = batches.Order(12, 5, 0)
    assert [order[k] for k in range(12)] == list(grain.MapDataset.range(12).seed(5).shuffle())
    assert [order[k] for k in range(12, 24)] == [6, 10, 4, 9, 0, 1, 11, 7, 8, 5, 2, 3]
    other = batches.Order(12, 5, 1)
    assert [other[k] for k in range(12)] == [5, 1, 8, 11, 3, 9, 2, 6, 7, 0, 10, 4]
