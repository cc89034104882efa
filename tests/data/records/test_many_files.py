"""Indexes of many small files, kept together: as those of each, made again where that is damaged, and of what has changed alone."""

import json

import numpy as np
import pytest

from ptft_jax.data import records
from ptft_jax.data.records import index as indexes
from ptft_jax.errors import UserError

COUNT = 40


@pytest.fixture
def folder(tmp_path, cache):
    (tmp_path / "many").mkdir()
    for number in range(COUNT):
        write(tmp_path / "many", number, f"first of {number}", f"second of {number}")
    return tmp_path / "many"


def write(folder, number, *texts, more=""):
    (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + more)


def opened(folder, broken="raise"):
    return records.open_source(f"jsonl:{folder}", broken=broken).whole("train")


def read(table):
    return [(table.where(n).rpartition("/")[2], table[n]["text"]) for n in range(len(table))]


@pytest.fixture
def scanned(monkeypatch):
    """Names of the files of which a pass is made."""
    found, scan = [], indexes._scan

    def noted(shard, *rest):
        found.append(shard.name.rpartition("/")[2])
        return scan(shard, *rest)

    monkeypatch.setattr(indexes, "_scan", noted)
    return found


def together(cache):
    """The one entry that has the rows of all."""
    size = 2 * COUNT * indexes.ROW.itemsize
    [path] = [path for path in (cache / "records").glob("*/rows") if path.stat().st_size >= size]
    return path


def test_they_are_those_of_each_file(folder, cache, scanned, monkeypatch):
    first = opened(folder)
    names = sorted(f"{number}.jsonl" for number in range(COUNT))
    expected = [
        (f"{name}, line {line + 1}", f"{word} of {name.partition('.')[0]}")
        for name in names
        for line, word in enumerate(("first", "second"))
    ]
    assert read(first) == expected and sorted(scanned) == names
    assert list((cache / "records").glob("*/rows")) == [together(cache)], "those of each are as quickly made again"
    later = opened(folder)
    assert later._kept.rows is not None and read(later) == expected and len(scanned) == COUNT
    monkeypatch.setattr(indexes, "_MANY", COUNT + 1)
    apart = opened(folder)
    assert apart._kept.rows is None and len(scanned) == 2 * COUNT
    for table in (first, later):
        assert table.fingerprint == apart.fingerprint
        np.testing.assert_array_equal(table.keys(), apart.keys())
        assert table.firsts() == apart.firsts()


def test_what_is_damaged_is_made_again_and_what_has_changed_is_read(folder, cache, scanned):
    whole = read(opened(folder))
    path = together(cache)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert read(opened(folder)) == whole and len(scanned) == 2 * COUNT
    assert opened(folder)._kept.rows is not None and len(scanned) == 2 * COUNT
    write(folder, 7, "another text")
    changed = opened(folder)
    assert len(changed) == 2 * COUNT - 1
    assert ("7.jsonl, line 1", "another text") in read(changed)


def test_what_is_broken_is_said_again(folder, cache):
    write(folder, 3, "first", more="{no record\n")
    for _ in range(2):
        skipping = opened(folder, "skip")
        assert skipping.skipped.count == 1 and skipping.skipped.first[0].startswith(f"{folder}/3.jsonl, line 2")
        assert len(skipping) == 2 * COUNT - 1
    assert skipping._kept.rows is not None
    for _ in range(2):
        with pytest.raises(UserError, match="3.jsonl, line 2"):
            opened(folder)


def test_of_one_that_is_large_the_index_is_kept_beside_theirs(folder, cache, scanned, monkeypatch):
    """A file that is added or changed is then no reason to read it again."""
    monkeypatch.setattr(indexes, "_TINY", 3 * indexes.ROW.itemsize)
    write(folder, 0, *(f"text {n}" for n in range(4)))
    whole = read(opened(folder))
    assert len(list((cache / "records").glob("*/rows"))) == 2
    scanned.clear()
    write(folder, 7, "another text")
    changed = read(opened(folder))
    assert sorted(scanned) == sorted(f"{number}.jsonl" for number in range(1, COUNT))
    assert [one for one in changed if one[0].startswith("0.")] == [one for one in whole if one[0].startswith("0.")]
