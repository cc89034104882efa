"""A server of S3 (moto) on this machine, whose answers are slowed down, broken off and refused."""

import collections
import contextlib
import itertools
import threading

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Faults:
    """What goes wrong with the answers of a WSGI application: how many of the next ones are `left` to, by kind, and that each one in `every`
    asks for time (0 = none). The bucket "private" is refused, and so is writing into "readable"."""

    def __init__(self, application):
        self.application = application
        self.left = collections.Counter()
        self.met = collections.Counter()
        self.every = 0
        self._asked = itertools.count(1)

    def __call__(self, environ, start):
        bucket, method = environ["PATH_INFO"].split("/")[1], environ["REQUEST_METHOD"]
        if bucket == "private" or (bucket == "readable" and method in ("PUT", "POST", "DELETE")):
            return self._refused(start, "403 Forbidden", DENIED)
        if self._next("slow") or (self.every and next(self._asked) % self.every == 0):
            return self._refused(start, "503 Slow Down", SLOW_DOWN)
        if method == "GET" and "list-type" not in environ["QUERY_STRING"] and self._next("cut"):
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


@contextlib.contextmanager
def serving():
    """(what goes wrong, the address) of a server."""
    from moto import server as moto_server
    from werkzeug.serving import make_server

    faults = Faults(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield faults, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def ready(served, bucket, monkeypatch):
    """The file system of what is being served, as clients find it by their environment, with a bucket of this name and nothing going wrong so far."""
    import fsspec

    faults, address = served
    for name, value in environment(address).items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    faults.left.clear()
    faults.every = 0
    if not system.exists(bucket):
        system.mkdir(bucket)
    fsspec.filesystem("s3").clear_instance_cache()
    faults.met.clear()
    return system


def environment(address):
    """Variables by which clients find it."""
    return {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
