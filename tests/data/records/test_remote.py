"""Files behind fsspec are copied once, and again when they change."""

import fsspec
import pytest

from ptft_jax.data.records import open_records, remote
from ptft_jax.errors import UserError
from tests.data.records import writing

RECORDS = [{"id": i, "text": f"text {i} é"} for i in range(30)]


@pytest.fixture
def bucket(cache):
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("kind", ["jsonl", "gz", "zst", "parquet", "csv", "arrayrecord"])
def test_remote_files_are_as_local_ones(bucket, tmp_path, kind):
    records = RECORDS if kind != "csv" else [{"text": r["text"]} for r in RECORDS]
    local = writing.write(kind, tmp_path, train=records)
    bucket.put(str(tmp_path / kind), "/data/set", recursive=True)
    name = next((tmp_path / kind).iterdir()).name
    scheme = local.partition(":")[0]
    expected = {s: p.fingerprint for s, p in writing.opened(local).items()}
    for url in ("memory://data/set", f"memory://data/set/{name}", "memory://data/*/train*"):
        parts = writing.opened(f"{scheme}:{url}")
        assert {s: p.fingerprint for s, p in parts.items()} == expected
        assert parts["train"].where(0).startswith("memory://")
        assert list(parts["test"]) == list(open_records(local, "test", held_out=0.1))


def test_a_remote_folder_of_a_dataset(bucket, tmp_path):
    local = writing.write("hf", tmp_path, train=RECORDS, validation=RECORDS[:3], test=RECORDS[:2])
    bucket.put(str(tmp_path / "hf"), "/saved", recursive=True)
    for _ in range(2):
        parts = writing.opened("hf:memory://saved")
        assert {s: p.fingerprint for s, p in parts.items()} == {
            s: p.fingerprint for s, p in writing.opened(local).items()
        }
    with pytest.raises(UserError, match="memory://saver: no such folder"):
        open_records("hf:memory://saver", "train", held_out=0.1)


def test_splits_by_name(bucket):
    for split, count in {"train": 20, "dev": 5, "test": 4}.items():
        bucket.pipe(f"/data/{split}/a.jsonl", writing.lines(RECORDS[:count]))
    assert [len(p) for p in writing.opened("jsonl:memory://data").values()] == [20, 5, 4]
    parts = writing.opened("jsonl:memory://data?train=dev&validation=test&test=train/a.jsonl")
    assert [len(p) for p in parts.values()] == [5, 4, 20]


def test_a_file_is_copied_once_and_again_when_it_changes(bucket, cache, monkeypatch):
    bucket.pipe("/x.jsonl", writing.lines(RECORDS))
    first = open_records("jsonl:memory://x.jsonl", "train", held_out=0.1)
    assert len(list(cache.glob("remote/*/*"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "open", lambda *_, **__: pytest.fail("copied again"))
        again = open_records("jsonl:memory://x.jsonl", "train", held_out=0.1)
        assert list(again) == list(first)
    bucket.pipe("/x.jsonl", writing.lines([{**r, "text": r["text"].upper()} for r in RECORDS]))  # of the same size
    assert open_records("jsonl:memory://x.jsonl", "train", held_out=0.1).fingerprint != first.fingerprint
    assert list(first), "the copy that is open is still the old one"


def test_a_file_that_changes_while_it_is_copied(bucket, cache, monkeypatch):
    bucket.pipe("/x.jsonl", writing.lines(RECORDS))
    real = remote.shutil.copyfileobj

    def copy(source, target, length):
        real(source, target, length)
        bucket.pipe("/x.jsonl", writing.lines(RECORDS[::-1]))

    monkeypatch.setattr(remote.shutil, "copyfileobj", copy)
    with pytest.raises(UserError, match="memory://x.jsonl: the file changed while it was read"):
        open_records("jsonl:memory://x.jsonl", "train", held_out=0.1)
    assert not list(cache.glob("remote/*/*")), "no copy of it is kept"


def test_file_urls_are_local_paths(cache, tmp_path):
    writing.write("jsonl", tmp_path, train=RECORDS)
    url, path = f"jsonl:file://{tmp_path}/jsonl", f"jsonl:{tmp_path}/jsonl"
    assert writing.opened(url)["test"].fingerprint == writing.opened(path)["test"].fingerprint
    assert not (cache / "remote").exists()


@pytest.mark.parametrize(
    "url, words",
    [
        ("memory://data/train.json", "no such file or folder \\(did you mean 'train.jsonl'"),
        ("memory://nothing", "no such file or folder"),
        ("memory://data/*.ndjson", "no such file or folder"),
        ("memory://texts", "the folder memory://texts holds no .jsonl"),
        ("memry://data", "fsspec knows no protocol 'memry' \\(did you mean 'memory'"),
    ],
)
def test_what_is_not_there(bucket, url, words):
    bucket.pipe("/data/train.jsonl", writing.lines(RECORDS))
    bucket.pipe("/texts/a.txt", b"text")
    with pytest.raises(UserError, match=words):
        open_records(f"jsonl:{url}", "train", held_out=0.1)


@pytest.mark.parametrize("method", ["isfile", "open", "info"])
def test_an_unreadable_bucket(bucket, monkeypatch, method):
    bucket.pipe("/x.jsonl", writing.lines(RECORDS))

    def refuse(*_, **__):
        raise PermissionError("403: the account has no access\nmore")

    monkeypatch.setattr(type(bucket), method, refuse)
    words = (
        "memory://x.jsonl: cannot be read \\(PermissionError: 403: the account has no access\\); check .*credentials"
    )
    with pytest.raises(UserError, match=words):
        open_records("jsonl:memory://x.jsonl", "train", held_out=0.1)


@pytest.mark.parametrize("protocol, package, extra", [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_driver(cache, monkeypatch, protocol, package, extra):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    words = f"{protocol}://b/x.jsonl: .* not installed; install it with: pip install 'ptft_jax\\[{extra}\\]'"
    with pytest.raises(UserError, match=words):
        open_records(f"jsonl:{protocol}://b/x.jsonl", "train", held_out=0.1)
