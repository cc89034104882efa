"""Data in a bucket of S3: a real server on this machine, whose answers are slowed down, broken off and refused.
`make buckets`."""

import collections
import threading

import pytest

from ptft_jax.data.records import open_records
from ptft_jax.errors import UserError
from tests.data.records import writing

moto_server = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
pytest.importorskip("s3fs", reason="needs the extra s3: pip install 'ptft_jax[s3]'")
pytestmark = pytest.mark.live

RECORDS = [{"id": i, "text": f"text {i} é"} for i in range(300)]
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Faults:
    """What goes wrong with the answers of a WSGI application: how many of the next ones, by kind."""

    def __init__(self, application):
        self.application = application
        self.left = collections.Counter()
        self.met = collections.Counter()

    def __call__(self, environ, start):
        bucket = environ["PATH_INFO"].split("/")[1]
        if bucket == "private":
            return self._refused(start, "403 Forbidden", DENIED)
        if self._next("slow"):
            return self._refused(start, "503 Slow Down", SLOW_DOWN)
        if environ["REQUEST_METHOD"] == "GET" and "list-type" not in environ["QUERY_STRING"] and self._next("cut"):
            body = b"".join(self.application(environ, start))
            return [body[: len(body) // 2]]  # of the length that was promised
        return self.application(environ, start)

    def _next(self, kind):
        if not self.left[kind]:
            return False
        self.left[kind] -= 1
        self.met[kind] += 1
        return True

    def _refused(self, start, status, body):
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="module")
def served():
    from werkzeug.serving import make_server

    faults = Faults(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield faults, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket(served, cache, monkeypatch):
    """A bucket with the records in it, and what goes wrong with it."""
    import fsspec

    faults, address = served
    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    faults.left.clear()
    if not system.exists("data"):
        system.mkdir("data")
    system.pipe("data/set/train.jsonl", writing.lines(RECORDS))
    fsspec.filesystem("s3").clear_instance_cache()
    faults.met.clear()
    return faults


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
