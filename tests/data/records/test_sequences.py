"""Sequences of records as a kind of source of a plugin: the same records as from a file, and what is wrong with one is named."""

import json
import pickle

import numpy as np
import pytest

from ptft_jax.config.sources import SOURCES, SourceSpec
from ptft_jax.data import records
from ptft_jax.data.records.sequences import sequence_source
from ptft_jax.data.tokenize import Opened
from ptft_jax.errors import UserError


class Sums:
    """Counts how often a record is read; index `wrong` is what cannot be read, by `how`."""

    def __init__(self, count, how="", fingerprint=""):
        self.count, self.how, self.read = count, how, 0
        if fingerprint:
            self.fingerprint = fingerprint

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read += 1
        if index == 7 and self.how:
            return eval(self.how)
        return {"text": f"{index} + {index} = {2 * index}", "n": np.int64(index)}


def by_name(reference, broken):
    """sums:COUNT, with its own test split."""
    count = int(reference.name)
    return sequence_source(reference, broken, {"train": Sums(count), "valid": Sums(9), "extra": Sums(3)})


KINDS = {**SOURCES, "sums": SourceSpec(by_name, ("id", "train"))}


def opened(rows, split="train", broken="raise"):
    kinds = {"mine": SourceSpec(lambda reference, broken: sequence_source(reference, broken, {"train": rows}), ("id",))}
    return records.open_records("mine:x?id=-", split, held_out=0.2, broken=broken, kinds=kinds)


def lines(tmp_path, count):
    path = tmp_path / "sums.jsonl"
    rows = ({"text": f"{n} + {n} = {2 * n}", "n": n} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}?id=-"


@pytest.mark.parametrize("split", records.SPLITS)
def test_as_a_file_with_the_same_records(split, tmp_path):
    """Division, order, keys and fingerprint."""
    mine, theirs = opened(Sums(60), split), records.open_records(lines(tmp_path, 60), split, held_out=0.2)
    assert [mine[n] for n in range(len(mine))] == [theirs[n] for n in range(len(theirs))] and 0 < len(mine) < 60
    assert mine.fingerprint == theirs.fingerprint
    np.testing.assert_array_equal(mine.keys(), theirs.keys())
    assert [type(mine[0][name]) for name in ("text", "n")] == [str, int]


def test_splits_of_its_own():
    source = records.open_source("sums:40", kinds=KINDS)
    assert set(source.own) == {"train", "validation"} and source.described["validation"] == "its split valid"
    assert (source.left_out.count, source.left_out.first[0].partition(":")[0]) == (1, "its split extra")
    assert len(source.split("validation", 0.2)) == 9 and len(source.split("train", 0.2)) < 40
    assert len(records.open_source("sums:40?train=extra", kinds=KINDS).whole()) == 3


@pytest.mark.parametrize(
    "how, words",
    [
        ("int('a')", "invalid literal for int"),
        ("'text'", "a str, not a mapping from columns to values"),
        ("{'text': object()}", "column 'text' holds a object, which JSON has no type for"),
        ("{'text': b'\\xff'}", "bytes that are not UTF-8"),
    ],
)
def test_a_record_that_is_broken(how, words):
    with pytest.raises(UserError, match=f"^mine:x/train, record 7: .*{words}.*data.broken=skip"):
        opened(Sums(20, how))
    found = opened(Sums(20, how), broken="skip")
    assert found.skipped.count == 1 and found.skipped.first[0].startswith("mine:x/train, record 7: ")
    assert "7 + 7 = 14" not in {found[n]["text"] for n in range(len(found))}


def test_a_reader_that_fails():
    with pytest.raises(UserError, match="^mine:x/train, record 7: its reader fails: ZeroDivisionError: "):
        opened(Sums(20, "1 / 0"), broken="skip")
    with pytest.raises(UserError, match="mine:x/train.*holds no record"):
        opened(Sums(0))


def test_the_pass_is_kept_where_a_fingerprint_is_known(tmp_path):
    one = str(tmp_path)  # the cache may outlive this test
    whole, again, other = (Sums(30, fingerprint=text) for text in (one, one, one + "b"))
    for rows, reads in ((whole, True), (again, False), (other, True)):
        assert len(opened(rows)) and (rows.read >= 30) == reads


def test_what_changed_meanwhile_is_refused():
    rows = Sums(30)
    found = opened(rows)
    rows.how = "{'text': 'other', 'n': 7}"
    with pytest.raises(UserError, match="record 7: not what it was when it was indexed"):
        [found[n] for n in range(len(found))]


def test_in_another_process():
    """By its name, and the function that opens it."""
    there = pickle.loads(pickle.dumps(Opened.of("sums:40", "train", held_out=0.2, kinds=KINDS)))
    here = Opened.of("sums:40", "train", held_out=0.2, kinds=KINDS)
    assert there.records.fingerprint == here.records.fingerprint and there.format == here.format
    assert [*there.texts()] == [*here.texts()]


@pytest.mark.parametrize(
    "reference, words",
    [
        ("sum:40", r"expected one of jsonl, .*, tokens, sums, then ':' and a name \(did you mean 'sums'\?\)"),
        ("sums:40?quoting=x", "sums has no option 'quoting'; it has format, .*, examples, id, train"),
        ("sums:", "sums: needs a name after the ':'"),
    ],
)
def test_names_of_kinds(reference, words):
    with pytest.raises(UserError, match=words):
        records.parse(reference, KINDS)
    with pytest.raises(UserError, match="expected one of jsonl, .*, tokens, then"):
        records.parse("sums:40")
