"""A bit that flipped on disk is seen when data are opened: an error of what was prepared, and a cache makes it again."""

import gzip
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from ptft_jax.data import cache as caches
from ptft_jax.data import overview, store, store_writer, token_folder, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.examples import Encoded
from ptft_jax.data.prepare import engines, shard_writing
from ptft_jax.data.prepare.settings import Settings
from ptft_jax.data.records import open_records
from ptft_jax.errors import UserError
from tests.data.records import writing
from tests.data.test_leaks import lines, texts, training
from tests.processes import ptft

BYTES = tok.ByteTokenizer()
HERE = engines.Processes(1)


def flip(path, at=0.5, keep_times=True):
    """One bit, in the middle or where `at` says, of the same file with the same times of change."""
    before = path.stat()
    with open(path, "r+b") as f:
        place = int(before.st_size * at)
        f.seek(place)
        byte = f.read(1)[0]
        f.seek(place)
        f.write(bytes([byte ^ 4]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def make(tmp_path, shards=2, **settings):
    source = lines(tmp_path / "source/x.jsonl", [{**row, "label": n % 3} for n, row in enumerate(texts(0, 200))])
    shard_writing.prepare(Settings((source,), shards=shards, **settings), BYTES, tmp_path / "out", HERE)
    return tmp_path / "out"


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["ids", "lengths", "labels", "origins", "trained", "keys"])
def test_a_flipped_bit_in_a_prepared_shard(cache, tmp_path, name, shards):
    folder = make(tmp_path, shards)
    first, _ = token_folder.load(folder, "train", BYTES)
    assert len(first)
    path = folder / f"train/shard-0000{shards - 1}-of-0000{shards}/{name}.bin"
    flip(path)
    with pytest.raises(
        UserError, match=f"{path}: damaged: .*copy {folder} again .* or delete it and have ptft data prepare"
    ):
        token_folder.load(folder, "train", BYTES)
    token_folder.load(folder, "validation", BYTES)
    with pytest.raises(UserError, match=f"{path}: damaged"):
        token_folder.kept(folder, "train") if name == "keys" else token_folder.load(folder, "train", BYTES)
    flip(path)
    assert token_folder.load(folder, "train", BYTES)[0].key == first.key


def test_what_is_noted_of_prepared_data(cache, tmp_path):
    folder = make(tmp_path)
    shard = folder / "train/shard-00000-of-00002"
    for path in (folder / "manifest.json", shard / "meta.json"):
        content = path.read_text()
        path.write_text(
            content.replace('"classification"', '"klassification"').replace('"labelled": true', '"labelled": false')
        )
        assert path.read_text() != content
        with pytest.raises(UserError, match=f"{path}: damaged: it is not what was written"):
            token_folder.load(folder, "train", BYTES)
        path.write_text(content)
    flip(shard / "meta.json", 0.0)
    with pytest.raises(UserError, match="meta.json: not JSON.*copy .* again"):
        token_folder.load(folder, "train", BYTES)
    flip(shard / "meta.json", 0.0)
    other = folder / "train/shard-00001-of-00002"
    shard.rename(folder / "train/aside")
    other.rename(shard)
    (folder / "train/aside").rename(other)
    with pytest.raises(UserError, match="is not the shard of which manifest.json has the digest"):
        token_folder.load(folder, "train", BYTES)


def test_what_an_earlier_release_prepared_is_read_and_checked(cache, tmp_path):
    """It noted one digest of all the files of a shard, and no keys."""
    folder = make(tmp_path, 1)
    facts = json.loads((folder / "manifest.json").read_text())
    for name in ("checksum", "sources", "surveyed"):
        del facts[name]
    for split, found in facts["splits"].items():
        for shard, content in found["contents"].items():
            place = folder / split / shard
            meta = json.loads((place / "meta.json").read_text())
            (place / "keys.bin").unlink()
            digests = {name: value for name, value in meta["digests"].items() if name != "keys.bin"}
            for name in ("checksum", "digests", "keyed"):
                del meta[name]
            content["digest"] = meta["key"] = store.content_key(digests)
            (place / "meta.json").write_text(json.dumps(meta))
    (folder / "manifest.json").write_text(json.dumps(facts))
    read, _ = token_folder.load(folder, "train", BYTES)
    assert read.keys is None and token_folder.kept(folder, "train") is None and token_folder.changed(facts) == []
    flip(folder / "train/shard-00000-of-00001/labels.bin")
    with pytest.raises(UserError, match="not the shard of which manifest.json has the digest"):
        token_folder.load(folder, "train", BYTES)


@pytest.mark.parametrize("name", ["ids", "lengths", "origins", "trained", "meta"])
def test_a_cached_store_that_is_damaged_is_made_anew(cache, tmp_path, name, capsys):
    rows = [{"prompt": f"ask {n}", "completion": f"answer {n}"} for n in range(60)]
    reference = lines(tmp_path / "x.jsonl", rows)

    def made():
        opened = tokenize.Opened.of(reference, "train", held_out=0.1)
        return tokenize.tokenized(opened, BYTES, template="", train_on="assistant")

    first = made()
    ids, trained = np.array(first.ids), np.array(first.trained)
    path = cache / "stores" / first.key / ("meta.json" if name == "meta" else f"{name}.bin")
    flip(path, 0.3)
    again = made()
    np.testing.assert_array_equal(again.ids, ids)
    np.testing.assert_array_equal(again.trained, trained)
    assert re.match(f"{re.escape(str(path))}: .*; it is made again\n$", capsys.readouterr().err)
    assert [p.name for p in (cache / "stores").iterdir()] == [first.key], "nothing is left of the damaged one"
    np.testing.assert_array_equal(first.ids, np.asarray(first.ids))  # a run that had it open goes on
    os.truncate(path, 3)
    assert made().key == first.key and "made again" in capsys.readouterr().err


def test_files_are_read_once_a_process_while_nothing_about_them_changes(cache, tmp_path):
    writer = store_writer.Writer(tmp_path / "s", 300)
    writer.add([Encoded(np.arange(9))], [0])
    writer.close("k")
    store.load(tmp_path / "s")
    read = caches._sha256.cache_info().misses
    store.load(tmp_path / "s")
    assert caches._sha256.cache_info().misses == read
    os.utime(tmp_path / "s/ids.bin")
    store.load(tmp_path / "s")
    assert caches._sha256.cache_info().misses == read + 1


def test_an_index_that_is_damaged_is_made_anew(cache, tmp_path):
    rows = texts(0, 50)
    reference = lines(tmp_path / "x.jsonl", rows)
    first = {split: list(records) for split, records in writing.opened(reference).items()}
    [path] = cache.glob("records/*/rows")
    for name in ("rows", "skipped.json"):
        flip(path.with_name(name), 0.4)
        assert {split: list(records) for split, records in writing.opened(reference).items()} == first


@pytest.mark.parametrize("kind", ["gz", "zst", "csv.gz"])
def test_a_record_is_what_was_indexed(cache, tmp_path, kind):
    """A bit of the decompressed copy in the cache."""
    rows = [{"text": f"some longer text {n}", "n": str(n)} for n in range(50)]
    if kind == "csv.gz":
        (tmp_path / "x").mkdir()
        data = gzip.compress(writing.FILES["csv"][2](rows))
        for split in writing.SPLITS:
            (tmp_path / f"x/{split}.csv.gz").write_bytes(data)
        reference = f"csv:{tmp_path}/x"
    else:
        reference = writing.write(kind, tmp_path, train=rows, validation=rows[:1], test=rows[1:2])
    train = open_records(reference, "train", held_out=0.1)
    assert list(train) == rows
    flip(max((cache / "decompressed").iterdir(), key=lambda p: p.stat().st_size))
    with pytest.raises(
        UserError,
        match=r"train.*: not what it was when it was indexed: .* its copy in the cache: .*`ptft cache --clear --kind=\S*decompressed\S*` deletes",
    ):
        list(open_records(reference, "train", held_out=0.1))


CHANGES = {
    "nothing": (lambda f: None, None),
    "touched": (lambda f: os.utime(f / "x.jsonl"), None),
    "a record": (lambda f: lines(f / "x.jsonl", texts(0, 201)), "x.jsonl"),
    "a letter": (lambda f: (f / "x.jsonl").write_text((f / "x.jsonl").read_text().replace("text 9\"", "text 8\"")), "x.jsonl"),
    "another file": (lambda f: lines(f / "y.jsonl", texts(0, 2)), "y.jsonl"),
    "a file less": (lambda f: (f / "z.jsonl").unlink(), "z.jsonl"),
    "gone": (lambda f: shutil.rmtree(f), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("spelled", ["source", "source/*.jsonl"])
def test_a_source_that_has_changed_since_is_said(cache, tmp_path, monkeypatch, name, spelled):
    change, expected = CHANGES[name]
    lines(tmp_path / "source/x.jsonl", texts(0, 200))
    lines(tmp_path / "source/z.jsonl", texts(200, 220))
    monkeypatch.chdir(tmp_path)
    reference = f"jsonl:{spelled}"
    shard_writing.prepare(Settings((reference,)), BYTES, tmp_path / "out", HERE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    change(tmp_path / "source")
    found = training(source=f"tokens:{tmp_path}/out").table
    assert found[0].get("changed") == (expected and [f"{reference}: {tmp_path}/source/{expected}"])
    said = [line for line in overview.announced(found) if "what it was prepared from has changed since" in line]
    assert len(said) == bool(expected)


@pytest.mark.parametrize("kind", ["text", "parquet", "arrow", "csv", "arrayrecord", "hf", "tfds"])
def test_sources_of_every_kind_are_known_again(cache, tmp_path, kind):
    rows = [{"text": f"some text {n}"} for n in range(30)]
    if kind == "text":
        for n, row in enumerate(rows):
            (tmp_path / f"text/{n}.txt").parent.mkdir(exist_ok=True)
            (tmp_path / f"text/{n}.txt").write_text(row["text"])
        (tmp_path / "text/empty.txt").write_text("")
        reference = f"text:{tmp_path}/text"
    else:
        reference = writing.write(kind, tmp_path, train=rows)
    manifest, _ = shard_writing.prepare(Settings((reference,)), BYTES, tmp_path / "out", HERE)
    assert manifest["sources"][reference]["files"] and token_folder.changed(manifest) == []
    file = pathlib.Path(next(name for name in manifest["sources"][reference]["files"] if not name.endswith(".json")))
    file.write_bytes(file.read_bytes() + b"x")
    assert token_folder.changed(manifest) == [f"{reference}: {file}"]


@pytest.mark.heavy
def test_damage_and_change_at_the_command_line(cache, tmp_path):
    source, folder = lines(tmp_path / "source/x.jsonl", texts(0, 200)), tmp_path / "out"
    shard_writing.prepare(Settings((source,), shards=2), BYTES, folder, HERE)
    words = ["data", "show", f"--data=tokens:{folder}", "--rows=1", "--length=16", "--overlong=split"]
    assert "has changed since" not in ptft(*words, check=True).stdout
    lines(tmp_path / "source/x.jsonl", texts(0, 3))
    assert f"has changed since: {source}" in ptft(*words, check=True).stdout
    flip(folder / "train/shard-00001-of-00002/ids.bin")
    done = ptft(*words)
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: {folder}/train/shard-00001-of-00002/ids.bin: damaged"
    )
    assert len(done.stderr.splitlines()) == 1
