"""What the cache holds, what is taken away, and what never is."""

import json
import os
import pathlib
import re
import sys
import threading
import time

import numpy as np
import pytest

import ptft_jax
from ptft_jax.data import cache as caching
from ptft_jax.data import cache_entries, cache_uses, store, store_writer
from ptft_jax.data.examples import Encoded
from ptft_jax.errors import UserError
from tests.processes import ptft, start

DAY = 86_400
KEYS = [digit * 32 for digit in "0123456789"]


def made(cache, kind, name, size, days):
    """An entry that nobody uses: a file, or a folder with one."""
    path = cache / kind / name
    data = path / "data" if kind in ("stores", "records", "remote", "tokenizers") else path
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(b"x" * size)
    for one in (data, path):
        os.utime(one, (time.time() - days * DAY,) * 2)
    return path


def names(found):
    return [entry.id for entry in found]


def fill(examples=3, length=1000):
    def write(folder):
        writer = store_writer.Writer(folder, 300)
        writer.add([Encoded(np.zeros(length, np.int32))] * examples, range(examples))
        writer.close("k")

    return write


def other(cache, *lines):
    """Another process that has done these lines, and waits."""
    code = "import pathlib, sys, time\nfrom ptft_jax.data import cache\n" + "\n".join(lines)
    process = start(sys.executable, "-c", code + "\nprint('ready', flush=True)\ntime.sleep(600)", PTFT_CACHE=cache)
    while "ready" not in process.written()[0]:
        assert process.process.poll() is None, process.written()
        time.sleep(0.01)
    return process


def test_every_kind_that_the_package_keeps_is_known():
    package = pathlib.Path(ptft_jax.__file__).parent
    kept = set()
    for file in package.rglob("*.py"):
        kept |= set(re.findall(r'cache\.root\(\) / "(\w+)"', file.read_text()))
    runs = {"buckets"}  # of which something may be in no bucket yet
    assert kept - {"doctor"} - runs == set(cache_entries.KINDS)


def test_what_is_there(cache):
    made(cache, "remote", KEYS[0], 40, 3)
    made(cache, "decompressed", f"{KEYS[1]}.jsonl", 50, 2)
    made(cache, "digests", KEYS[2], 5, 1)
    made(cache, "xla", "jit_step-abc-cache", 7, 9)
    for kind, name in (("assets", "mine.txt"), ("remote", "notes"), ("xla", "README")):  # another's
        made(cache, kind, name, 99, 1)
    store.cached("k", fill(), "text:a.txt (train)")
    made(cache, "stores", f".{KEYS[4]}.abcdefgh", 30, 2)
    for name in (".git", ".venv", ".cache.d"):  # hidden, and another's
        made(cache, "stores", name, 99, 9)
    found = cache_entries.entries(cache)
    assert names(found) == [
        "stores/k", f"stores/.{KEYS[4]}.abcdefgh", f"decompressed/{KEYS[1]}.jsonl", f"remote/{KEYS[0]}", f"digests/{KEYS[2]}",
        "xla/jit_step-abc-cache",
    ]  # fmt: skip
    first, half, *rest = found
    assert first.state == "in use" and half.state == "left half made" and {entry.state for entry in rest} == {""}
    assert first.made_from == "text:a.txt (train)" and rest[0].made_from == ""
    assert first.bytes == sum(f.stat().st_size for f in (cache / "stores/k").iterdir()) > 6000
    assert [entry.bytes for entry in found[1:]] == [30, 50, 40, 5, 7]
    assert [round((time.time() - entry.last_used) / DAY, 3) for entry in found] == [0, 2, 2, 3, 1, 9]


def test_what_a_running_process_uses_stays_however_it_ends(cache):
    paths = [made(cache, "decompressed", f"{key}.jsonl", 10, 5) for key in KEYS[:3]]
    killed = other(cache, f"assert cache.used(pathlib.Path({str(paths[0])!r}), 'a.jsonl.gz')")
    try:
        gone, stay = cache_entries.remove(cache, cache_entries.entries(cache))
        assert names(stay) == [f"decompressed/{KEYS[0]}.jsonl"] and stay[0].state == "in use"
        assert len(gone) == 2 and [path.exists() for path in paths] == [True, False, False]
        assert not caching.used(paths[1]) and stay[0].made_from == "a.jsonl.gz"
    finally:
        killed.kill()
    assert [entry.state for entry in cache_entries.entries(cache)] == [""]
    gone, stay = cache_entries.remove(cache, cache_entries.entries(cache))
    assert len(gone) == 1 and not stay and not list((cache / "decompressed").iterdir())
    assert not list(cache.glob("uses/processes/*")) and not list(cache.glob("uses/made_from/*/*"))


def test_the_end_of_a_process_is_the_last_use(cache):
    path = made(cache, "stores", KEYS[0], 10, 5)
    ending = other(
        cache, f"cache.used(pathlib.Path({str(path)!r}))", "import os, signal",
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
    )  # fmt: skip
    try:
        assert time.time() - path.stat().st_mtime < 100
        os.utime(path, (0, 0))
        ending.process.terminate()
        ending.process.wait(100)
        assert time.time() - path.stat().st_mtime < 100 and not list(cache.glob("uses/processes/*"))
    finally:
        ending.kill()


def test_a_process_of_another_machine_is_believed_for_a_week(cache):
    made(cache, "stores", KEYS[0], 10, 30)
    mark = cache / "uses/processes/there"
    mark.parent.mkdir(parents=True)
    mark.write_text(f"another machine\nstores/{KEYS[0]}\n")
    for days, kept in ((6, True), (8, False)):
        os.utime(mark, (time.time() - days * DAY,) * 2)
        assert (cache_entries.entries(cache)[0].state == "in use") == kept


def test_nothing_is_begun_to_be_used_while_it_is_taken_away(cache):
    """One that finds an entry waits for who is taking some away, and then finds none."""
    path, found = made(cache, "stores", KEYS[0], 10, 1), []
    with cache_uses.alone(cache):
        thread = threading.Thread(target=lambda: found.append(caching.used(path)))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not found
        cache_uses.delete(path)
    thread.join(100)
    assert found == [False]


def test_what_is_being_made_stays(cache):
    folder = made(cache, "stores", f".{KEYS[0]}.abcdefgh", 10, 3)
    with caching.at_work(folder):
        for path in (folder, folder / ".lock"):
            os.utime(path, (0, 0))
        [entry] = cache_entries.entries(cache)
        assert entry.state == "being made" and cache_entries.remove(cache, [entry]) == ([], [entry])
    assert folder.exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        ("", 0),
        ("0", 0),
        ("1500", 1500),
        ("20GB", 20 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("3k", 3000),
        ("2tb", 2 * 10**12),
    ],
)
def test_bounds(monkeypatch, given, expected):
    monkeypatch.setenv("PTFT_CACHE_SIZE", given)
    assert caching.bound() == expected


@pytest.mark.parametrize("given", ["much", "-1", "20XB", "5i", "nan", "1e9"])
def test_what_is_no_bound(monkeypatch, given):
    monkeypatch.setenv("PTFT_CACHE_SIZE", given)
    with pytest.raises(
        UserError, match=re.escape(f"$PTFT_CACHE_SIZE = {given!r}: expected a number of bytes, such as")
    ):
        caching.bound()


def test_the_least_recently_used_go_first(cache, monkeypatch):
    for key, days in zip(KEYS, (3, 9, 1, 7)):
        made(cache, "decompressed", f"{key}.csv", 10_000, days)
    made(cache, "stores", f".{KEYS[4]}.abcdefgh", 10_000, 2)
    monkeypatch.setenv("PTFT_CACHE_SIZE", "38kB")
    note = cache / "labels" / KEYS[5]
    caching.write_atomic(note, lambda path: path.write_bytes(b"x" * 100))
    left = [f"decompressed/{KEYS[n]}.csv" for n in (2, 0, 3)]
    assert names(cache_entries.entries(cache)) == [*left, f"labels/{KEYS[5]}"]
    store.cached("k", fill(examples=1, length=5000))  # 10,000 bytes and some
    assert names(cache_entries.entries(cache)) == ["stores/k", *left[:2], f"labels/{KEYS[5]}"]
    caching.noted(note)
    monkeypatch.setenv("PTFT_CACHE_SIZE", "1kB")  # what is in use, and what was just written, exceed it
    store.cached("k2", fill(examples=1, length=6000))
    assert names(cache_entries.entries(cache)) == ["stores/k2", "stores/k"]
    text = b"y" * 50
    caching.write_atomic(note, lambda path: path.write_bytes(text))
    assert caching.noted(note) == text


def test_a_bound_is_kept_by_what_is_written_and_not_looked_at_for_each(cache, monkeypatch):
    looks, look = [], cache_entries.shrink
    monkeypatch.setattr(cache_entries, "shrink", lambda *given, **more: looks.append(1) or look(*given, **more))
    monkeypatch.setenv("PTFT_CACHE_SIZE", "100kB")
    for number in range(130):
        caching.write_atomic(cache / "labels" / f"{number:032x}", lambda path: path.write_bytes(b"x" * 1000))
        assert sum(path.stat().st_size for path in (cache / "labels").iterdir()) <= 101_000
    assert f"{129:032x}" in os.listdir(cache / "labels") and len(looks) < 45
    assert not (cache / "labels" / f"{0:032x}").exists()


def test_the_command(cache):
    """Shows, filters, tries, and deletes; nothing of another's."""
    made(cache, "remote", KEYS[0], 4_000, 40)
    old = made(cache, "decompressed", f"{KEYS[1]}.jsonl", 2_000_000, 20)
    made(cache, "decompressed", f"{KEYS[2]}.jsonl", 1_000, 1)
    for key in KEYS:
        made(cache, "digests", key, 32, 2)
    mine = made(cache, "remote", "mine", 10, 40)
    (cache / "uses/made_from/decompressed").mkdir(parents=True)
    (cache / "uses/made_from/decompressed" / old.name).write_text("logs/a.jsonl.gz")
    shown = ptft("cache", cache=cache, check=True).stdout
    assert re.search(r"decompressed +│ logs/a.jsonl.gz +│ 2 MB", shown) and "10: digests of source files" in shown
    assert f"13 entries, 2.01 MB in {cache}; bound: none ($PTFT_CACHE_SIZE)" in shown
    words = ["cache", "--clear", "--kind=decompressed,remote", "--unused_days=15.5"]
    tried = json.loads(ptft(*words, "--dry_run", "--json", cache=cache, check=True).stdout)
    assert [one["made_from"] for one in tried["removed"]] == ["logs/a.jsonl.gz", ""]
    assert tried["bytes"] == 2_004_000 and tried["kept"] == [] and old.exists()
    done = ptft(*words, cache=cache, check=True).stdout
    assert f"removed 2 entries, 2 MB of {cache}" in done and not old.exists() and (mine / "data").exists()
    found = json.loads(ptft("cache", "--json", cache=cache, check=True).stdout)
    assert found["bytes"] == 1_320 and len(found["entries"]) == 11 and found["bound"] == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["--kind=store"], "--kind=store: no kind of entry (did you mean 'stores'?); they are stores, unfinished"),
        (["--dry_run"], "--dry_run says what --clear would delete"),
        pytest.param(["--unused_days=-1"], "expected a value of 0 or more", marks=pytest.mark.slow),
        pytest.param(["clear"], "unexpected argument 'clear'", marks=pytest.mark.slow),
    ],
)
def test_impossible_words(cache, words, said):
    done = ptft("cache", *words, cache=cache)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
