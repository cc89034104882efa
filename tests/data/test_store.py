"""Stores hold what was put in, whole or not at all, whoever makes them."""

import concurrent.futures
import errno
import json
import multiprocessing
import os
import re
import socket
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import cache as caching
from ptft_jax.data import store, store_writer
from ptft_jax.data.examples import Encoded
from ptft_jax.errors import UserError
from tests.processes import run


@st.composite
def sequences(draw):
    ids = np.asarray(draw(st.lists(st.integers(0, 299), max_size=12)), np.int32)
    mask = draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    return Encoded(ids, None if mask is None else np.asarray(mask, bool))


def _write(folder, examples, key="k", vocab=300):
    writer = store_writer.Writer(folder, vocab)
    half = len(examples) // 2
    writer.add(examples[:half], range(half))
    writer.add(examples[half:], range(half, len(examples)))
    writer.close(key)
    return store.load(folder)


@settings(max_examples=60, deadline=None)
@given(examples=st.lists(sequences(), max_size=6))
def test_what_is_put_in_comes_out(tmp_path_factory, examples):
    found = _write(tmp_path_factory.mktemp("store"), examples)
    assert len(found) == len(examples) and found.key == "k" and found.ids.dtype == np.uint16
    for k, e in enumerate(examples):
        part = slice(found.offsets[k], found.offsets[k + 1])
        assert found.ids[part].tolist() == e.ids.tolist()
        trained = np.ones(len(e.ids), bool) if found.trained is None else found.trained[part]
        assert trained.tolist() == ([True] * len(e.ids) if e.trained is None else e.trained.tolist())
    spans = np.stack([found.offsets[:-1], found.offsets[1:]], 1)
    for first in (True, False):
        expected = [
            (np.ones(len(e.ids)) if e.trained is None else e.trained)[0 if first else 1 :].sum() for e in examples
        ]
        assert found.learned(spans, first).tolist() == expected


def test_what_is_learned_is_counted_part_by_part(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    trained = rng.random(400) < 0.4
    found = _write(tmp_path, [Encoded(np.arange(400), trained)])
    starts = rng.integers(0, 400, 50)
    spans = np.stack([starts, np.minimum(starts + rng.integers(0, 30, 50), 400)], 1)
    monkeypatch.setattr(store, "_SPANS", 7)
    for first in (True, False):
        assert found.learned(spans, first).tolist() == [trained[a + (not first) : b].sum() for a, b in spans]


def test_pairs_labels_and_large_vocabularies(tmp_path):
    pair = Encoded(np.asarray([70_000, 1]), np.asarray([False, True]), rejected=Encoded(np.asarray([70_000, 2, 3])))
    found = _write(tmp_path / "pairs", [pair, pair], vocab=80_000)
    assert found.per_example == 2 and len(found) == 2 and found.ids.dtype == np.uint32
    assert np.diff(found.offsets).tolist() == [2, 3, 2, 3] and found.ids[0] == 70_000
    found = _write(tmp_path / "labels", [Encoded(np.arange(3), label=2), Encoded(np.arange(2), label=0)])
    assert found.labels.tolist() == [2, 0]


def test_the_first_tokens(tmp_path):
    found = _write(tmp_path, [Encoded(np.arange(4)), Encoded(np.arange(4)), Encoded(np.arange(4))])
    cut = found.first(6, cut=True)
    assert cut.ids.tolist() == [0, 1, 2, 3, 0, 1] and cut.offsets.tolist() == [0, 4, 6] and len(cut) == 2
    assert cut.key != found.key and found.first(8, cut=True).offsets.tolist() == [0, 4, 8]
    with pytest.raises(UserError, match="train_tokens = 13: the training split has only 12 tokens"):
        found.first(13, cut=True)
    for tokens, whole in ((8, 2), (9, 2), (12, 3), (4, 1)):
        assert found.first(tokens, cut=False).offsets.tolist() == [0, 4, 8, 12][: whole + 1]
    with pytest.raises(UserError, match="train_tokens = 3: the first example alone has 4 tokens"):
        found.first(3, cut=False)
    pair = Encoded(np.arange(3), rejected=Encoded(np.arange(2)))
    pairs = _write(tmp_path / "pairs", [pair, pair])
    assert pairs.first(9, cut=False).offsets.tolist() == [0, 3, 5] and len(pairs.first(9, cut=False)) == 1
    assert pairs.first(6, cut=True).offsets.tolist() == [0, 3, 5, 6, 6] and len(pairs.first(6, cut=True)) == 2


def test_a_damaged_store_is_refused(tmp_path):
    _write(tmp_path, [Encoded(np.arange(9))])
    (tmp_path / "ids.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"ids.bin: 5 bytes, expected 18: damaged; delete"):
        store.load(tmp_path)
    (tmp_path / store.META).write_text("{")
    with pytest.raises(UserError, match=r"meta.json: not JSON"):
        store.load(tmp_path)
    with pytest.raises(UserError, match="no tokenized data here"):
        store.load(tmp_path / "elsewhere")


def test_a_store_is_there_whole_or_not_at_all(cache):
    def fail(folder):
        (folder / "ids.bin").write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.cached("k1", fail)
    assert not list((cache / "stores").iterdir())


def test_a_full_disk_is_named(cache):
    program = (
        "import pathlib, resource, signal, numpy as np\n"
        "from ptft_jax.data import store, store_writer\nfrom ptft_jax.data.examples import Encoded\n"
        "from ptft_jax.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "def fill(folder):\n"
        "    writer = store_writer.Writer(folder, 300)\n"
        "    writer.add([Encoded(np.zeros(100_000, np.int32))], [0])\n"
        "    writer.close('k')\n"
        "try:\n    store.cached('k', fill)\n"
        "except UserError as e:\n    print(e)\n"
    )
    done = run(sys.executable, "-c", program)
    assert re.match(f"{cache}/stores/k.*: cannot be written: File too large .*PTFT_CACHE", done.stdout), done
    assert not list((cache / "stores").iterdir())


def _make(key, barrier_file):
    def fill(folder):
        writer = store_writer.Writer(folder, 300)
        for _ in range(200):
            writer.add([Encoded(np.arange(50))], [0])
        writer.close(key)
        with open(barrier_file, "a", encoding="utf-8") as f:
            f.write("made\n")

    return store.cached(key, fill).ids.sum()


def test_several_processes_make_one_at_once(cache, tmp_path):
    made = tmp_path / "made"
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        sums = list(pool.map(_make, ["same"] * 3, [str(made)] * 3))
    assert sums == [200 * 1225] * 3
    assert [p.name for p in (cache / "stores").iterdir()] == ["same"]
    assert json.loads((cache / "stores/same/meta.json").read_text())["tokens"] == 10_000


def test_empty_answers_are_known_by_their_places(tmp_path):
    examples = [Encoded(np.arange(4), empty=(2,)), Encoded(np.arange(3)), Encoded(np.arange(5), empty=(0, 4))]
    pair = Encoded(np.arange(2), empty=(1,), rejected=Encoded(np.arange(3), empty=(2,)))
    for name, added, expected in (("examples", examples, [2, 7, 11]), ("pairs", [pair, pair], [1, 4, 6, 9])):
        found = _write(tmp_path / name, added)
        assert found.empty.tolist() == expected and found.empty.dtype == np.int64
        writer = store_writer.Writer(tmp_path / f"joined {name}", 300)
        for _ in range(2):
            writer.take(tmp_path / name)
        writer.close("joined")
        tokens = len(found.ids)
        joined = store.load(tmp_path / f"joined {name}")
        assert joined.empty.tolist() == [*expected, *(tokens + at for at in expected)]
    whole = store.load(tmp_path / "examples")
    assert whole.first(8, cut=True).empty.tolist() == [2, 7] and whole.first(7, cut=False).empty.tolist() == [2]


def test_a_store_of_an_earlier_release_is_read(tmp_path):
    """One that was prepared without counts of empty answers, and without digests of its files."""
    _write(tmp_path / "old", [Encoded(np.arange(4), empty=(2,))])
    meta = json.loads((tmp_path / "old/meta.json").read_text())
    then = ("key", "dtype", "examples", "sequences", "tokens", "per_example", "all_trained", "labelled")
    (tmp_path / "old/meta.json").write_text(json.dumps({name: meta[name] for name in then}))
    (tmp_path / "old/empty.bin").unlink()
    found = store.load(tmp_path / "old")
    assert found.ids.tolist() == [0, 1, 2, 3] and found.empty.tolist() == []
    meta = {**meta, "empty": 0}
    del meta["numeric"]  # nor did it say whether labels are numbers
    (tmp_path / "old/meta.json").write_text(json.dumps(meta))
    writer = store_writer.Writer(tmp_path / "joined", 300)
    writer.take(tmp_path / "old")
    writer.close("joined")
    assert store.load(tmp_path / "joined").ids.tolist() == [0, 1, 2, 3]


def test_only_files_of_the_cache_are_said_to_be_its(cache, tmp_path):
    for path, said in ((cache / "stores/k/ids.bin", True), (tmp_path / "run/summary.json", False)):
        with (
            pytest.raises(UserError, match="cannot be written: Read-only file system") as raised,
            caching.writing(path),
        ):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        assert ("PTFT_CACHE" in str(raised.value)) == said


def test_what_a_killed_process_left_is_cleared(cache):
    """But nothing that another process is at work on, nor what is young and may get its lock at once."""
    parent = cache / "stores"
    folders = {
        name: parent / f".{'a' * 32}.{name:_<10}" for name in ("left", "held", "young", "old", "recent", "elsewhere")
    }
    ages = {"left": 300, "held": 90_000, "young": 5, "old": 90_000, "recent": 3_000, "elsewhere": 3_000}
    hosts = {"left": socket.gethostname(), "young": socket.gethostname(), "elsewhere": "another machine"}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "ids.bin").write_bytes(b"half")
        if name in hosts:
            (folder / ".lock").write_text(hosts[name])
    old = parent / f".{'b' * 32}.old_______.bin"
    old.touch()
    (parent / ".git").mkdir()  # another's
    os.utime(parent / ".git", (0, 0))
    with caching.at_work(folders["held"]):
        now = time.time()
        for path in (*folders.values(), old):
            for inside in (*path.glob("*"), *path.glob(".lock"), path):
                age = ages[path.name.split(".")[2].rstrip("_")]
                os.utime(inside, (now - age, now - age))
        store.cached("k", lambda folder: _write(folder, [Encoded(np.arange(3))]))
        left = [*(folders[name].name for name in ("elsewhere", "held", "recent", "young")), ".git", "k"]
        assert sorted(path.name for path in parent.iterdir()) == sorted(left)
    assert not (parent / "k/.lock").exists()
