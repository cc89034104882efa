"""Data in a bucket of S3: a real server on this machine, whose answers are slowed down, broken off and refused.
`make buckets`."""

import pytest

from ptft_jax.data.records import open_records
from ptft_jax.errors import UserError
from tests import s3
from tests.data.records import writing

pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
pytest.importorskip("s3fs", reason="needs the extra s3: pip install 'ptft_jax[s3]'")
pytestmark = pytest.mark.live

RECORDS = [{"id": i, "text": f"text {i} é"} for i in range(300)]


@pytest.fixture(scope="module")
def served():
    with s3.serving() as found:
        yield found


@pytest.fixture
def bucket(served, cache, monkeypatch):
    """A bucket with the records in it, and what goes wrong with it."""
    s3.ready(served, "data", monkeypatch).pipe("data/set/train.jsonl", writing.lines(RECORDS))
    return served[0]


def texts():
    return list(open_records("jsonl:s3://data/set/train.jsonl", "train", held_out=0.1))


def test_files_of_a_bucket_are_as_local_ones(bucket, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(writing.lines(RECORDS))
    local = list(open_records(f"jsonl:{tmp_path}/train.jsonl", "train", held_out=0.1))
    assert len(local) > 200 and texts() == local
    assert list(open_records("jsonl:s3://data/set", "train", held_out=0.1)) == local


@pytest.mark.parametrize("kind, count", [("slow", 3), ("cut", 2)])
def test_a_server_that_asks_for_time_or_breaks_off_is_asked_again(bucket, kind, count):
    bucket.left[kind] = count
    assert len(texts()) > 200
    assert bucket.met[kind] == count


@pytest.mark.parametrize("kind", ["slow", "cut"])
def test_one_that_never_answers_is_an_error_and_leaves_nothing_behind(bucket, cache, kind):
    bucket.left[kind] = 10**6
    with pytest.raises(UserError, match="s3://data/set/train.jsonl: cannot be read"):
        texts()
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 100]
    bucket.left.clear()
    assert len(texts()) > 200


@pytest.mark.parametrize(
    "url, words",
    [
        (
            "s3://private/set/train.jsonl",
            "s3://private/set/train.jsonl: cannot be read .*Access ?Denied.*credentials may read it",
        ),
        ("s3://nothing/train.jsonl", "s3://nothing/train.jsonl"),
        ("s3://data/set/tarin.jsonl", "train.jsonl"),
    ],
)
def test_what_may_not_be_read_or_is_not_there_is_named(bucket, url, words):
    with pytest.raises(UserError, match=words):
        open_records(f"jsonl:{url}", "train", held_out=0.1)
