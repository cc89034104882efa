"""Plans of rows: nothing lost or doubled, no row too long, and the packings are the ones they are named after."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptft_jax.data import packing, placing
from ptft_jax.errors import UserError

NEXT_TOKEN = (lambda n: n - 1, 1)
MASKED = (lambda n: n, 0)
CORRUPTED = (lambda n: n - n // 3 + np.maximum(1, n // 5), 0)  # spans out, sentinels in: shorter than the ids
OBJECTIVES = [NEXT_TOKEN, MASKED, CORRUPTED]


def make(lengths, length, how, *, overlong="raise", objective=NEXT_TOKEN, seed=0, first=0, **more):
    slots, overlap = objective
    offsets = first + np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])
    where = "record {}".format
    return packing.plan(
        offsets, length, how=how, overlong=overlong, slots=slots, overlap=overlap, seed=seed, where=where, **more
    )


def spans(plan):
    return np.concatenate([plan[i] for i in range(len(plan))])


def sizes_of_rows(plan, slots):
    """What lies in each row, in the order placed."""
    return [[int(slots(stop - start)) for start, stop in plan[i]] for i in range(len(plan))]


lists = st.lists(st.integers(0, 40), min_size=1, max_size=40)
hows = st.sampled_from(["concat", "none", "first_fit", "best_fit"])


@settings(max_examples=300, deadline=None)
@given(
    lengths=lists,
    length=st.integers(3, 24),
    how=hows,
    overlong=st.sampled_from(["drop", "truncate", "split"]),
    objective=st.sampled_from(OBJECTIVES),
    seed=st.integers(0, 2**40),
    first=st.sampled_from([0, 7]),
    partial=st.booleans(),
)
def test_nothing_is_lost_or_doubled(lengths, length, how, overlong, objective, seed, first, partial):
    slots, overlap = objective
    try:
        plan = make(
            lengths, length, how, overlong=overlong, objective=objective, seed=seed, first=first, partial=partial
        )
    except UserError as error:
        assert "config.data.length" in str(error)
        longest = packing.longest(slots, length)
        if how == "concat":
            least = packing.LEAST if partial else longest
            assert sum(lengths) < least
        else:
            assert all(n < packing.LEAST or (overlong == "drop" and n > longest) for n in lengths)
        return
    edges = first + np.concatenate([[0], np.cumsum(lengths)])
    if how == "concat":
        edges = edges[[0, -1]]
    total = int(edges[-1] - first)
    there, targets = np.zeros(first + total, int), np.zeros(first + total, int)
    for i in range(len(plan)):
        assert len(plan[i]) and plan[i].dtype == np.int64
        assert sum(int(slots(stop - start)) for start, stop in plan[i]) <= length
        for start, stop in plan[i]:
            assert stop - start >= packing.LEAST
            owner = np.searchsorted(edges, start, "right") - 1
            assert edges[owner] <= start < stop <= edges[owner + 1], "a piece is inside one sequence"
            there[start:stop] += 1
            targets[start + overlap : stop] += 1
    assert targets.max() == 1
    starts = {int(e) for e in edges[:-1]}
    for position in np.flatnonzero(there):
        assert targets[position] == 1 or (overlap and int(position) in starts)
    report = plan.report
    assert report.tokens == total and report.sequences == len(lengths)
    assert report.tokens_lost == (there[first:] == 0).sum()
    if how != "concat":
        longest = packing.longest(slots, length)
        assert report.empty == sum(n < packing.LEAST for n in lengths)
        over = sum(n > longest for n in lengths)
        done = {"drop": report.dropped, "truncate": report.truncated, "split": report.split}
        assert done.pop(overlong) == over and not any(done.values())
    if overlong == "split" and how != "concat":
        pieces = [-(-(n - overlap) // (longest - overlap)) for n in lengths if n >= packing.LEAST]
        assert report.pieces == sum(pieces), "no more pieces than needed"
        assert report.tokens_lost == sum(n for n in lengths if n < packing.LEAST)
    used = sum(int(slots(stop - start)) for start, stop in spans(plan))
    assert (report.rows, report.pieces, report.used) == (len(plan), len(spans(plan)), used)
    assert report.efficiency == used / (len(plan) * length)
    again = make(lengths, length, how, overlong=overlong, objective=objective, seed=seed, first=first, partial=partial)
    assert np.array_equal(spans(plan), spans(again))
    if how != "concat":
        assert np.array_equal(plan.rows, again.rows)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 3000), objective=st.sampled_from(OBJECTIVES))
def test_longest_is_the_most_that_fits(length, objective):
    slots, _ = objective
    n = packing.longest(slots, length)
    assert int(slots(np.asarray(n + 1))) > length and (n == 0 or int(slots(np.asarray(n))) <= length)


def first_fit(sizes, length):
    rows = []
    for size in sizes:
        for row in rows:
            if sum(row) + size <= length:
                row.append(size)
                break
        else:
            rows.append([size])
    return rows


def best_fit(sizes, length):
    rows = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row in rows if sum(row) + size <= length]
        if fitting:
            max(fitting, key=sum).append(size)
        else:
            rows.append([size])
    return rows


packable = st.integers(1, 30).flatmap(
    lambda length: st.tuples(st.just(length), st.lists(st.integers(1, length), min_size=1, max_size=120))
)


@settings(max_examples=150, deadline=None)
@given(case=packable, seed=st.integers(0, 10))
@example(case=(30, [16] * 13), seed=0)  # the most rows for so few ids
def test_first_fit_is_first_fit(case, seed):
    length, sizes = case
    plan = make([n + 1 for n in sizes], length, "first_fit", seed=seed)
    order, _ = placing.first_fit(np.asarray(sizes), length, seed)
    assert sorted(order) == list(range(len(sizes)))
    assert sizes_of_rows(plan, NEXT_TOKEN[0]) == first_fit([sizes[i] for i in order], length)
    starts = np.cumsum([0] + [n + 1 for n in sizes])
    placed = {int(start) for start, _ in spans(plan)}
    assert placed == {int(starts[i]) for i in order}, "each sequence itself, not another of its length"


@settings(max_examples=150, deadline=None)
@given(case=packable, seed=st.integers(0, 10))
def test_best_fit_is_best_fit_decreasing(case, seed):
    length, sizes = case
    plan = make([n + 1 for n in sizes], length, "best_fit", seed=seed)
    ours, reference = sizes_of_rows(plan, NEXT_TOKEN[0]), best_fit(sizes, length)
    # Rows of equal room are a tie, and the choice decides which pieces meet, but never how full the rows become.
    assert sorted(map(sum, ours)) == sorted(map(sum, reference))
    assert sorted(n for row in ours for n in row) == sorted(sizes)
    assert all(row == sorted(row, reverse=True) for row in ours), "in the order placed"


def test_best_fit_is_near_the_fewest_rows():
    random = np.random.default_rng(0)
    for _ in range(200):
        length, rows, sizes = int(random.integers(10, 2000)), int(random.integers(5, 60)), []
        for _ in range(rows):  # rows that are full: no packing has fewer
            cuts = np.unique(random.integers(1, length, int(random.integers(0, 9))))
            sizes += np.diff([0, *cuts, length]).tolist()
        report = make([n + 1 for n in sizes], length, "best_fit").report
        assert report.fewest_rows == rows
        assert rows <= report.rows <= 11 / 9 * rows + 1


def test_the_seed_decides_the_order():
    lengths = [5, 9, 3, 9, 9, 4, 7, 2, 9, 5] * 3
    for how in ("first_fit", "best_fit"):
        plans = [spans(make(lengths, 12, how, seed=seed)).tolist() for seed in (0, 0, 1)]
        assert plans[0] == plans[1] != plans[2]
    assert spans(make(lengths, 12, "none", seed=0)).tolist() == spans(make(lengths, 12, "none", seed=1)).tolist()


def test_orders_never_change():
    """A plan is not stored in checkpoints but made again: another order would be other data."""
    assert spans(make([3] * 8, 4, "first_fit", seed=0))[:, 0].tolist() == [18, 9, 15, 0, 21, 6, 3, 12]
    assert spans(make([3] * 8, 4, "best_fit", seed=0))[:, 0].tolist() == [15, 0, 3, 12, 21, 6, 18, 9]


def test_windows_are_computed_not_stored():
    plan = make([10**12], 2048, "concat")
    assert len(plan) == (10**12 - 1) // 2048 and plan.report.tokens_lost == (10**12 - 1) % 2048
    assert plan[10**8].tolist() == [[2048 * 10**8, 2048 * 10**8 + 2049]]
    assert plan.starts(np.asarray([0, 5, 10**8])).tolist() == [0, 5 * 2048, 2048 * 10**8]
    short = make([10], 4, "concat", partial=True)
    assert spans(short).tolist() == [[0, 5], [4, 9], [8, 10]] and short.report.used == 9
    assert spans(make([10], 4, "concat", partial=True, objective=MASKED)).tolist() == [[0, 4], [4, 8], [8, 10]]


@pytest.mark.parametrize("how", ["concat", "best_fit"])
def test_rows_have_ends(how):
    plan = make([5] * 4, 4, how)
    for index in (-1, len(plan)):
        with pytest.raises(IndexError, match=f"row {index} of {len(plan)}"):
            plan[index]
        with pytest.raises(IndexError, match=f"row {index} of {len(plan)}"):
            plan.of(np.asarray([0, index]))


@pytest.mark.parametrize("how", ["concat", "none", "first_fit", "best_fit"])
def test_many_rows_at_once_are_the_rows(how):
    plan = make([5, 3, 2, 5, 4, 2, 2], 4, how)
    for indices in ([], [len(plan) - 1], [2, 0, 2, 1]):
        found, counts = plan.of(np.asarray(indices, np.int64))
        assert counts.tolist() == [len(plan[i]) for i in indices]
        assert found.tolist() == [span for i in indices for span in plan[i].tolist()]


def test_over_long_sequences_are_named():
    with pytest.raises(UserError) as error:
        make([5, 9, 2, 12], 6, "best_fit")
    message = str(error.value)
    assert message.startswith("record 1: 9 tokens are more than a row holds (7; config.data.length = 6), and so are 1")
    assert all(f"'{choice}'" in message for choice in ("drop", "truncate", "split"))


def test_over_long_sequences_by_choice():
    def made(overlong, **more):
        plan = make([5, 9, 1, 12], 6, "none", overlong=overlong, **more)
        return spans(plan).tolist(), plan.report

    rows, report = made("drop")
    assert rows == [[0, 5]] and (report.dropped, report.empty, report.tokens_lost) == (2, 1, 22)
    rows, report = made("truncate")
    assert rows == [[0, 5], [5, 12], [15, 22]] and (report.truncated, report.tokens_lost) == (2, 1 + 2 + 5)
    rows, report = made("split")
    assert rows == [[0, 5], [5, 12], [11, 14], [15, 22], [21, 27]] and (report.split, report.tokens_lost) == (2, 1)
    rows, _ = made("split", objective=MASKED)
    assert rows == [[0, 5], [5, 11], [11, 14], [15, 21], [21, 27]]
    # Seven ids in rows of six: the last piece would be one id, which nothing could be predicted from.
    assert spans(make([7], 6, "none", overlong="split", objective=MASKED)).tolist() == [[0, 5], [5, 7]]


def test_too_little_data():
    with pytest.raises(UserError, match=r"config.data.length = 8: the split has only 8 tokens, .* needs \(9\)"):
        make([5, 3], 8, "concat")
    with pytest.raises(
        UserError,
        match=r"no row is left of 3 sequences \(1 with fewer than 2 tokens, 2 too long, 0 with nothing to learn\)",
    ):
        make([9, 9, 1], 4, "best_fit", overlong="drop")
    with pytest.raises(UserError, match=r"eval.length = 2: a row holds 2 tokens, too few"):
        make([9], 2, "none", objective=MASKED, field="eval.length")


def test_the_report_is_one_line():
    line = make([5, 9, 1, 12], 6, "best_fit", overlong="split").report.describe()
    assert line == (
        "4 rows of 6 from 4 sequences (27 tokens), 95.8% of the positions used (best_fit; at most 95.8% possible); "
        "2 split; 1 empty; 1 tokens in no row (3.70%)"
    )


def grain_rows(how, sizes, length, bins):
    """Sizes in the rows of Grain's packer, which keeps `bins` rows open at once."""
    import grain

    packers = {
        "first_fit": grain.experimental.FirstFitPackIterDataset,
        "best_fit": grain.experimental.BestFitPackIterDataset,
    }
    elements = grain.MapDataset.source([{"x": np.ones(n, np.int32)} for n in sizes]).to_iter_dataset()
    packed = packers[how](
        elements, length_struct={"x": length}, num_packing_bins=bins, shuffle_bins=False, meta_features=()
    )
    rows = [np.asarray(row["x_segment_ids"]) for row in packed]
    return [np.bincount(row[row > 0])[1:].tolist() for row in rows if row.any()]


def skewed(count, length):
    random = np.random.default_rng(0)
    return np.clip(random.lognormal(4, 1.1, count).astype(int), 2, length)


@pytest.mark.parametrize("how", ["first_fit", "best_fit"])
def test_rows_equal_grains_where_grain_keeps_all_open(how):
    sizes, length = skewed(400, 256), 256
    plan = make(sizes, length, how, objective=MASKED)
    ours = sizes_of_rows(plan, MASKED[0])
    order, _ = placing.PLACE[how](sizes, length, 0)
    theirs = grain_rows(how, sizes[order], length, bins=len(ours))
    if how == "first_fit":
        assert ours == theirs
    else:
        assert sorted(map(sum, ours)) == sorted(map(sum, theirs))


@pytest.mark.parametrize("how", ["first_fit", "best_fit"])
def test_rows_are_fewer_than_grains(how):
    """Grain packs a stream through a few open rows; a plan knows all lengths."""
    sizes, length = skewed(2000, 512), 512
    ours = make(sizes, length, how, objective=MASKED).report
    theirs = grain_rows(how, sizes, length, bins=32)
    assert ours.rows < len(theirs)
    assert ours.efficiency > 0.97


@pytest.mark.live
def test_best_fit_has_the_rows_of_trls():
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    sizes, length = skewed(3000, 512), 512
    data = datasets.Dataset.from_dict({"input_ids": [[1] * int(n) for n in sizes]})
    theirs = trl.pack_dataset(data, length, strategy="bfd", map_kwargs={"batch_size": None})  # all at once
    ours = make(sizes, length, "best_fit", objective=MASKED)
    assert sorted(len(ids) for ids in theirs["input_ids"]) == sorted(map(sum, sizes_of_rows(ours, MASKED[0])))


# Units


def _units(rng, count):
    """Lengths of sequences, and where units of 1 to 4 of them start."""
    sizes = rng.integers(1, 5, count)
    return rng.integers(2, 12, sizes.sum()), np.concatenate([[0], np.cumsum(sizes)])


@pytest.mark.parametrize("how", ["none", "first_fit", "best_fit"])
@pytest.mark.parametrize("seed", range(4))
def test_units_stay_together(how, seed):
    """Each lies in one row, side by side and in order; all are there; no row is too full."""
    lengths, units = _units(np.random.default_rng(seed), 30)
    offsets, length = np.concatenate([[0], np.cumsum(lengths)]), 48
    made = make(lengths, length, how, units=units)
    starts = {int(start): n for n, start in enumerate(offsets[:-1])}
    seen = []
    for index in range(len(made)):
        row = [starts[int(start)] for start, _ in made[index]]
        assert sum(int(lengths[n]) - 1 for n in row) <= length
        while row:
            unit = int(np.searchsorted(units, row[0], side="right")) - 1
            members = list(range(units[unit], units[unit + 1]))
            assert row[: len(members)] == members
            row = row[len(members) :]
            seen.append(unit)
        assert how != "none" or seen[-1] == len(seen) - 1
    assert sorted(seen) == list(range(len(units) - 1))
    assert made.report.pieces == len(lengths) and made.report.tokens_lost == 0


@pytest.mark.parametrize("how", ["none", "first_fit", "best_fit"])
def test_units_of_one_change_nothing(how):
    lengths = np.random.default_rng(0).integers(2, 40, 200)
    plain, alone = make(lengths, 40, how), make(lengths, 40, how, units=np.arange(len(lengths) + 1))
    np.testing.assert_array_equal(plain.spans, alone.spans)
    np.testing.assert_array_equal(plain.rows, alone.rows)
    assert plain.report == alone.report


def test_a_unit_is_left_out_whole():
    """Pairs: the second of the first has one token, the third is too long together. By hand."""
    lengths = [5, 1, 4, 4, 9, 8, 3, 3]
    units = np.arange(0, 9, 2)
    made = make(lengths, 12, "none", units=units, overlong="drop")
    assert [[(int(a), int(b)) for a, b in made[i]] for i in range(len(made))] == [
        [(6, 10), (10, 14)],
        [(31, 34), (34, 37)],
    ]
    report = made.report
    assert (report.empty, report.incomplete, report.dropped, report.tokens_lost) == (1, 1, 2, 1 + 5 + 17)
    assert "2 dropped; 1 empty; 1 incomplete" in report.describe()
    with pytest.raises(UserError, match="and the 1 that belong to it: 15 positions are more than a row has .* = 12"):
        make(lengths, 12, "none", units=units, overlong="raise")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(how="concat"), "config.data.packing = 'concat': .* one row: expected 'none', 'first_fit' or 'best_fit'"),
        (dict(overlong="split"), "config.data.overlong = 'split': .* one row: expected 'raise', 'drop' or 'truncate'"),
    ],
)
def test_units_are_not_cut_apart(changes, message):
    with pytest.raises(UserError, match=message):
        make([4, 4], 12, **({"how": "none", "overlong": "raise"} | changes), units=np.asarray([0, 2]))


def test_the_longest_of_a_unit_is_cut():
    """Until the unit fits a row of 12, a piece of n ids taking n - 1: [5, 20] leaves 4 + 8, [12, 9, 3] 5 + 5 + 2, by hand."""
    made = make([5, 20, 12, 9, 3, 4, 4], 12, "none", units=np.asarray([0, 2, 5, 7]), overlong="truncate")
    assert [[int(b - a) for a, b in made[i]] for i in range(3)] == [[5, 9], [6, 6, 3], [4, 4]]
    assert [int(a) for i in range(3) for a, _ in made[i]] == [0, 5, 25, 37, 46, 49, 53]
    assert (made.report.truncated, made.report.tokens_lost) == (3, 11 + 6 + 3)


def test_units_of_which_both_are_the_same():
    """Of three pairs the second; it is named, or left out and counted."""
    ids = np.array([1, 2, 3, 1, 2, 4, 5, 6, 5, 6, 7, 8, 9, 7, 8])
    lengths, units = [3, 3, 2, 2, 3, 2], np.asarray([0, 2, 4, 6])

    def same(first, second):
        return np.array([ids[a:b].tolist() == ids[c:d].tolist() for (a, b), (c, d) in zip(first, second)])

    made = make(lengths, 12, "none", units=units, same=same, untrainable="drop")
    assert (len(made), made.report.equal, made.report.tokens_lost) == (2, 1, 4)
    assert "1 equal" in made.report.describe()
    with pytest.raises(UserError, match="2: both answers are the same, so neither is better"):
        make(lengths, 12, "none", units=units, same=same, untrainable="raise")
