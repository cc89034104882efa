"""Digests that are kept: which files a later start reads."""

import hashlib
import os

import pytest

from ptft_jax.data import cache, checked, store, store_writer
from ptft_jax.data.examples import Encoded
from ptft_jax.data.records import files, known


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Names of files that are read, as they are; changes are settled at once, and no process remembers."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SETTLED", -60.0)
    found = []
    monkeypatch.setattr(
        cache, "sha256", lambda path: found.append(path.name) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    return found


def test_a_file_is_read_where_it_changed_or_after_a_week(reads, tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    path.write_bytes(b"one")
    for content, times in ((b"one", 1), (b"one", 1), (b"two", 2), (b"two", 2)):
        if path.read_bytes() != content:
            before = path.stat()
            path.write_bytes(content)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as large as it was, and as old
        assert checked.sha256(path) == hashlib.sha256(content).hexdigest() and len(reads) == times
    now = known.time.time()
    monkeypatch.setattr(known.time, "time", lambda: now + checked.Digests.again + 1)
    assert checked.sha256(path) == hashlib.sha256(b"two").hexdigest() and len(reads) == 3


def test_what_was_just_written_is_not_taken_for_unchanged(reads, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SETTLED", 60.0)
    (tmp_path / "x.bin").write_bytes(b"one")
    assert checked.sha256(tmp_path / "x.bin") == checked.sha256(tmp_path / "x.bin") and len(reads) == 2


def test_a_store_is_read_once_and_its_damage_is_found(reads, tmp_path):
    writer = store_writer.Writer(tmp_path / "store", 300)
    writer.add([Encoded([1, 2, 3]), Encoded([4, 5])], range(2))
    writer.close("key")
    del reads[:]  # of writing it
    store.load(tmp_path / "store")
    first = set(reads)
    assert "ids.bin" in first
    store.load(tmp_path / "store")
    assert set(reads) == first and len(reads) == len(first), "the second start reads nothing"
    with open(tmp_path / "store/ids.bin", "r+b") as file:
        file.write(b"\x07")
    for _ in range(2):
        with pytest.raises(store.Damaged, match=r"ids.bin: damaged: its SHA-256 is"):
            store.load(tmp_path / "store")
