"""Splits: a source's own, by name or by option; else divided by content, without leaks."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.records import open_records, parse
from ptft_jax.data.records.files import canonical_split
from ptft_jax.data.records.table import divide, stand_ins
from ptft_jax.errors import UserError
from tests.data.records import sides, writing

SPLITS = writing.SPLITS


def texts(count, start=0):
    return [{"text": f"text {i}"} for i in range(start, start + count)]


def put(folder, **files):
    """Files of texts: name -> first number; ten each. "__" is a folder."""
    for name, first in files.items():
        path = folder / (name.replace("__", "/") + ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(writing.lines(texts(10, first)))
    return f"jsonl:{folder}"


def numbers(records):
    return [int(r["text"].split()[1]) for r in records]


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    share=st.floats(0.01, 0.4),
    missing=st.sampled_from([("validation", "test"), ("validation",), ("test",)]),
)
def test_division_is_disjoint_complete_and_by_content(values, share, missing):
    """`values` stand for contents: some equal."""
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 2**64, (31, 2), np.uint64)
    contents[7, 0] = contents[8, 0]  # half a digest alike is not alike
    reference = parse("jsonl:x")
    different = sorted({tuple(map(int, contents[v])) for v in values})
    if not round(len(different) * share) or len(different) < 1 + len(missing):
        with pytest.raises(UserError, match=f"{len(different)} different records? (is|are) too few to hold out"):
            divide(reference, contents[values], list(missing), share)
        return
    splits = divide(reference, contents[values], list(missing), share)
    assert set(splits) == {"train", *missing}
    together = np.concatenate(list(splits.values()))
    assert sorted(together) == list(range(len(values))), "each record in one split"
    found = {name: {values[i] for i in indices} for name, indices in splits.items()}
    assert sum(map(len, found.values())) == len(different), "equal records are on one side"
    assert all(found.values()), "no split is without a record"
    assert all(list(indices) == sorted(indices) for indices in splits.values()), "order is kept"
    # A fixed border, but for the one that stands in where there would be none.
    low = [c for c in different if Fraction(c[0], 2**64) < Fraction(share)]
    high = [c for c in different if Fraction(c[0], 2**64) >= 1 - Fraction(share)]
    expected = {"validation": low or different[:1], "test": high or different[-1:]}
    expected = {name: set(expected[name]) for name in missing}
    expected["train"] = set(different) - set().union(*expected.values())
    if expected["train"] and sum(map(len, expected.values())) == len(different):
        assert {n: {tuple(map(int, contents[v])) for v in x} for n, x in found.items()} == expected
    order = rng.permutation(len(values))
    shuffled = divide(reference, contents[np.array(values)[order]], list(missing), share)
    assert {n: {values[order[i]] for i in x} for n, x in shuffled.items()} == found, "order and names decide nothing"


def test_the_borders_are_where_they_are_said_to_be():
    """0.25 is a number of 64 bits exactly: the key at a border, and the ones beside it."""
    quarter = 2**62
    highs = [0, quarter - 1, quarter, 3 * quarter - 1, 3 * quarter, 2**64 - 1]
    keys = np.asarray([(h, n) for n, h in enumerate(highs)], np.uint64)
    found = divide(parse("jsonl:x"), keys, ["validation", "test"], 0.25)
    assert {name: indices.tolist() for name, indices in found.items()} == {
        "train": [2, 3], "validation": [0, 1], "test": [4, 5]
    }  # fmt: skip
    only = divide(parse("jsonl:x"), keys, ["test"], 0.25)
    assert only["train"].tolist() == [0, 1, 2, 3], "the test split is the same whether validation is missing or not"


@pytest.mark.parametrize("share", [0.02, 0.1, 0.33])
def test_the_share_holds_in_expectation(cache, tmp_path, share):
    """Of 4,000 records: within 5 standard deviations of the binomial distribution, and exactly those that hashing by hand
    says."""
    records = [(f"text {i}",) for i in range(4000)]
    (tmp_path / "x.jsonl").write_bytes(writing.lines([{"text": t} for (t,) in records]))
    parts = writing.opened(f"jsonl:{tmp_path}/x.jsonl", held_out=share)
    assert {s: numbers(p) for s, p in parts.items()} == sides.divided(records, share)
    for split in ("validation", "test"):
        assert abs(len(parts[split]) - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


def test_records_that_are_added_move_none(cache, tmp_path):
    """In front, between and behind, and in another file; a larger share takes from train alone."""
    before, folder = texts(60), tmp_path / "data"
    folder.mkdir()
    (folder / "x.jsonl").write_bytes(writing.lines(before))
    first = {s: set(numbers(p)) for s, p in writing.opened(f"jsonl:{folder}/x.jsonl").items()}
    added = texts(150, 1000)
    (folder / "x.jsonl").write_bytes(writing.lines(added[:50] + before[:30] + added[50:100] + before[30:]))
    (folder / "y.jsonl").write_bytes(writing.lines(added[100:]))
    grown = {s: set(numbers(p)) for s, p in writing.opened(f"jsonl:{folder}").items()}
    assert {s: {n for n in x if n < 60} for s, x in grown.items()} == first
    more = {s: set(numbers(p)) for s, p in writing.opened(f"jsonl:{folder}", held_out=0.3).items()}
    assert more["validation"] > grown["validation"] and more["test"] > grown["test"]


def test_the_few_records_of_a_small_source_have_all_splits(cache, tmp_path):
    """Of 12 texts often none falls to a tenth: then the nearest one stands in."""
    seen = set()
    for first in range(0, 240, 12):
        (tmp_path / "x.jsonl").write_bytes(writing.lines(texts(12, first)))
        parts = writing.opened(f"jsonl:{tmp_path}/x.jsonl")
        expected = sides.divided([(f"text {i}",) for i in range(first, first + 12)], 0.1)
        assert {s: [n - first for n in numbers(p)] for s, p in parts.items()} == expected
        seen |= {len(p) for p in parts.values()}
        by_border = [sides.of(0.1, f"text {i}") for i in range(first, first + 12)]
        for split in ("validation", "test"):
            stood_in = stand_ins(parts[split].keys(), split, 0.1)
            assert stood_in == (0 if split in by_border else 1)
            seen.add(f"{stood_in} in {split}")
    assert min(n for n in seen if isinstance(n, int)) == 1
    assert {"1 in validation", "1 in test", "0 in test"} <= seen, "both happen"


def test_equal_records_stay_together_whatever_the_order_of_their_keys(cache, tmp_path):
    lines = [json.dumps({"a": i % 12, "b": 5} if i % 2 else {"b": 5, "a": i % 12}) for i in range(60)]
    lines += [json.dumps({"b": 5, "a": i}) for i in range(12)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    parts = writing.opened(f"jsonl:{tmp_path}/x.jsonl", held_out=0.25)
    found = {s: {r["a"] for r in p} for s, p in parts.items()}
    assert all(found.values()) and sum(map(len, found.values())) == 12 == len(set().union(*found.values()))
    assert sum(map(len, parts.values())) == 72


def test_files_called_after_splits_are_those(cache, tmp_path):
    layouts = [
        dict(train=0, validation=10, test=20),
        {"train-00000-of-00002": 0, "train-00001-of-00002": 30, "val": 10, "test.en": 20},
        {"train__a": 0, "train__b": 30, "dev__a": 10, "Test__a": 20},
        {"data__train_1": 0, "data__valid": 10, "data__test": 20},
    ]
    for i, layout in enumerate(layouts):
        parts = writing.opened(put(tmp_path / f"layout{i}", **layout))
        expected = [*range(10), *(range(30, 40) if len(layout) == 4 else ())]
        assert numbers(parts["train"]) == expected
        assert numbers(parts["validation"]) == list(range(10, 20)) and numbers(parts["test"]) == list(range(20, 30))
        glob = writing.opened(f"jsonl:{tmp_path}/layout{i}/**/*.jsonl")
        assert {s: p.fingerprint for s, p in glob.items()} == {s: p.fingerprint for s, p in parts.items()}


@pytest.mark.parametrize(
    "spelled", ["~/data", "~/data/", "~/data/*.jsonl", "./data", "data/", "data/*", "../test/data", "."]
)
def test_folders_around_a_source_are_no_splits(cache, tmp_path, monkeypatch, spelled):
    put(tmp_path / "test" / "data", a=0, b=10)
    monkeypatch.setenv("HOME", str(tmp_path / "test"))
    monkeypatch.chdir(tmp_path / "test" / ("data" if spelled == "." else ""))
    expected = sides.counts([(f"text {i}",) for i in range(20)], 0.1)
    assert [len(p) for p in writing.opened(f"jsonl:{spelled}").values()] == expected
    put(tmp_path / "test" / "data", a=0, b=10, train=0)
    with pytest.raises(UserError, match="some files are called after a split"):
        open_records(f"jsonl:{spelled}", "train", held_out=0.1)


@pytest.mark.parametrize(
    "name, split",
    [
        ("train", "train"), ("train-00000-of-00002.parquet", "train"), ("training_set.csv", "train"), ("TRAIN.json", "train"),
        ("val.csv", "validation"), ("valid_1", "validation"), ("validation.jsonl.gz", "validation"), ("dev", "validation"),
        ("test1.txt", "test"), ("testing", "test"), ("trains", None), ("testimony.txt", None), ("device", None),
        ("valley.csv", None), ("my_train.csv", None),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert canonical_split(name) == split


def test_options_name_files(cache, tmp_path):
    put(tmp_path / "data", a=0, b=10, c=20, more__d=30)
    parts = writing.opened(f"jsonl:{tmp_path}/data?train=[ab].jsonl&validation=c.jsonl&test=more")
    assert [numbers(parts[s]) for s in SPLITS] == [list(range(20)), list(range(20, 30)), list(range(30, 40))]
    parts = writing.opened(f"jsonl:{tmp_path}/data/a.jsonl?validation=b.jsonl&test={tmp_path}/data/c.jsonl")
    assert [numbers(parts[s]) for s in SPLITS] == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    parts = writing.opened(f"jsonl:{tmp_path}/data?validation=b.jsonl&test=more", held_out=0.1)
    assert numbers(parts["train"]) == [*range(10), *range(20, 30)], "files that no option names are trained on"


def test_a_missing_split_is_made_of_train_and_the_others_stay(cache, tmp_path):
    reference = put(tmp_path / "data", train=0, test=50)
    parts = writing.opened(reference, held_out=0.2)
    assert numbers(parts["test"]) == list(range(50, 60)), "its own"
    expected = sides.divided([(f"text {i}",) for i in range(10)], 0.2, ("validation",))
    assert numbers(parts["validation"]) == expected["validation"] and expected["validation"]
    assert sorted(numbers(parts["train"]) + numbers(parts["validation"])) == list(range(10))


def test_splits_that_make_no_sense(cache, tmp_path):
    for layout, options, words in [
        ({"train": 0, "extra": 10, "test": 20}, "", "some files are called after a split .*\n  .*extra.jsonl"),
        ({"validation": 0, "test": 10}, "", "no file is called 'train'"),
        ({"a": 0, "b": 10}, "?validation=a.jsonl&test=b.jsonl", "every file belongs to validation or test"),
        ({"a": 0, "b": 10}, "?train=a.jsonl&test=?.jsonl", "a file belongs to more than one split"),
        (
            {"train": 0, "val": 10, "b": 20},
            "?validation=b.jsonl",
            "validation= names files, and others are called valid",
        ),
        ({"a": 0}, "/a.jsonl?train=a.jsonl", "train= names files in a folder, and the source is a single file"),
        ({"a": 0}, "?train=b.jsonl", "no such file or folder: .*/b.jsonl"),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(UserError, match=words):
            open_records(put(folder, **layout) + options, "train", held_out=0.1)


def test_too_few_records_to_divide(cache, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(writing.lines(texts(1) * 40 + texts(4)))
    with pytest.raises(
        UserError, match="4 different records? (is|are) too few to hold out a share of 0.1 .*data.held_out"
    ):
        open_records(f"jsonl:{tmp_path}/x.jsonl", "train", held_out=0.1)


def test_the_first_examples(cache, tmp_path):
    reference = put(tmp_path / "data", train=0, validation=10, test=20)
    whole = open_records(reference, "train", held_out=0.1)
    first = writing.opened(reference + "?examples=4")
    assert numbers(first["train"]) == [0, 1, 2, 3] and len(first["validation"]) == 10
    assert first["train"].fingerprint != whole.fingerprint
    assert first["train"].where(3) == whole.where(3)
    with pytest.raises(UserError, match="examples=11: the train split has only 10 records"):
        open_records(reference + "?examples=11", "train", held_out=0.1)
    divided = f"jsonl:{tmp_path}/data/train.jsonl"
    some = open_records(divided + "?examples=3", "train", held_out=0.1)
    assert list(some) == [open_records(divided, "train", held_out=0.1)[i] for i in range(3)]


def test_splits_of_datasets(cache, tmp_path):
    for kind in ("hf", "tfds"):
        reference = writing.write(
            kind, tmp_path, train=texts(20), dev=texts(5, 20), test=texts(4, 30), extra=texts(3, 50)
        )
        assert [len(p) for p in writing.opened(reference).values()] == [20, 5, 4]
        joint = "&" if "?" in reference else "?"
        parts = writing.opened(f"{reference}{joint}test=extra&validation=test")
        assert [numbers(parts[s])[0] for s in SPLITS] == [0, 30, 50]
        for options, words in {
            "test=xtra": "test=xtra: the splits are .*\\(did you mean 'extra'",
            "validation=extra&test=extra": "validation and test are all 'extra'",
        }.items():
            with pytest.raises(UserError, match=words):
                open_records(f"{reference}{joint}{options}", "train", held_out=0.1)
    one = writing.write("hf", tmp_path / "hf", everything=texts(10))
    with pytest.raises(UserError, match="no split 'train' among everything; name the one to train on with train="):
        open_records(one, "train", held_out=0.1)
    expected = sides.counts([(f"text {i}",) for i in range(10)], 0.1)
    assert [len(p) for p in writing.opened(one + "?train=everything").values()] == expected


def test_a_saved_selection_is_read_as_selected(cache, tmp_path):
    import datasets

    datasets.Dataset.from_list(texts(30)).select([5, 3, *range(10, 20)]).save_to_disk(str(tmp_path / "some"))
    parts = writing.opened(f"hf:{tmp_path}/some")
    assert sorted(n for p in parts.values() for n in numbers(p)) == [3, 5, *range(10, 20)]
