"""Splits: a source's own, by name or by option; else divided by content, without leaks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.records import open_records, parse
from ptft_jax.data.records.files import canonical_split
from ptft_jax.data.records.table import divide
from ptft_jax.errors import UserError
from tests.data.records import writing

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
    contents = rng.integers(0, 2**63, (31, 2)).astype(np.uint64)
    contents[7, 0] = contents[8, 0]  # half a digest alike is not alike
    reference = parse("jsonl:x")
    different = len(set(values))
    held = round(different * share)
    if not held or different - held * len(missing) < 1:
        with pytest.raises(UserError, match=f"{different} different records? (is|are) too few to hold out"):
            divide(reference, contents[values], list(missing), share)
        return
    splits = divide(reference, contents[values], list(missing), share)
    assert set(splits) == {"train", *missing}
    together = np.concatenate(list(splits.values()))
    assert sorted(together) == list(range(len(values))), "each record in one split"
    sides = {name: {values[i] for i in indices} for name, indices in splits.items()}
    assert sum(map(len, sides.values())) == different, "equal records are on one side"
    assert all(len(sides[name]) == held for name in missing)
    assert all(list(indices) == sorted(indices) for indices in splits.values()), "order is kept"
    order = rng.permutation(len(values))
    shuffled = divide(reference, contents[np.array(values)[order]], list(missing), share)
    assert {n: {values[order[i]] for i in x} for n, x in shuffled.items()} == sides, "order and names decide nothing"


def test_equal_records_stay_together_whatever_the_order_of_their_keys(cache, tmp_path):
    lines = [json.dumps({"a": i % 12, "b": "x"} if i % 2 else {"b": "x", "a": i % 12}) for i in range(60)]
    lines += [json.dumps({"b": "x", "a": i}) for i in range(12)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    parts = writing.opened(f"jsonl:{tmp_path}/x.jsonl", held_out=0.25)
    sides = {s: {r["a"] for r in p} for s, p in parts.items()}
    assert [len(sides[s]) for s in SPLITS] == [6, 3, 3] and len(set().union(*sides.values())) == 12
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
    assert [len(p) for p in writing.opened(f"jsonl:{spelled}").values()] == [16, 2, 2]
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
    assert len(parts["validation"]) == 2
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
    assert [len(p) for p in writing.opened(one + "?train=everything").values()] == [8, 1, 1]


def test_a_saved_selection_is_read_as_selected(cache, tmp_path):
    import datasets

    datasets.Dataset.from_list(texts(30)).select([5, 3, *range(10, 20)]).save_to_disk(str(tmp_path / "some"))
    parts = writing.opened(f"hf:{tmp_path}/some")
    assert sorted(n for p in parts.values() for n in numbers(p)) == [3, 5, *range(10, 20)]
