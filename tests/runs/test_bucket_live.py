"""Runs in a bucket of S3: a real server on this machine, whose answers are slowed down, broken off and refused. `make buckets`."""

import socket

import fsspec
import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import checkpoint
from ptft_jax.runs.workdir import Workdir
from tests import s3
from tests.helpers import quiet_train, tiny_config

pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
pytest.importorskip("s3fs", reason="needs the extra s3: pip install 'ptft_jax[s3]'")
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def served():
    with s3.serving() as found:
        yield found


@pytest.fixture
def faults(served, cache, monkeypatch):
    """What goes wrong with the server; there are the buckets "runs" and "readable"."""
    s3.ready(served, "runs", monkeypatch)
    return served[0]


def config(text_file, **more):
    common = {"training__steps": 6, "eval__every": 2, "checkpoint__every": 2, "model__dropout": 0.1, "model__layers": 1}
    return tiny_config(text_file, **{**common, **more})


def test_a_run_is_as_one_of_a_folder_whatever_the_server_does(faults, cache, text_file, tmp_path, monkeypatch):
    made, url = config(text_file), "s3://runs/some/a"
    quiet_train(made, tmp_path / "whole")
    faults.every, faults.left["cut"] = 7, 4
    stop = [(lambda at: at.step == 3, lambda at: at.leave())]
    assert not quiet_train(made, url, hooks=stop)["finished"]
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "another machine"))
    faults.left["cut"] = 4
    assert quiet_train(made, url)["finished"]
    assert faults.met == {"cut": 8}
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "a third"))
    workdir, step = checkpoint.resolve(f"{url}@last")
    ours, theirs = (checkpoint.read_meta(folder, step)["checksums"] for folder in (workdir, tmp_path / "whole"))
    assert ours == theirs and Workdir(workdir).steps() == Workdir(tmp_path / "whole").steps()
    started = quiet_train(config(text_file, init__from_=f"{url}@best", training__epochs=0), tmp_path / "child")
    assert started["finished"] and Workdir(tmp_path / "child").read_lineage()[0]["workdir"] == url


@pytest.mark.parametrize(
    "url, words",
    [
        ("s3://private/a", "s3://private/a: cannot be read .*credentials may read it"),
        ("s3://readable/a", "s3://readable/a: cannot be written .*credentials may write it"),
        ("s3://nothing-of-this-name/a", "s3://nothing-of-this-name/a: cannot be written .*bucket"),
        ("s3://runs", "expected s3://BUCKET/FOLDER"),
    ],
)
def test_what_may_not_be_written_is_named_before_anything_is_compiled(faults, text_file, url, words, monkeypatch):
    monkeypatch.setattr("ptft_jax.training.assembly.Run", None)  # nothing is assembled
    with pytest.raises(UserError, match=words):
        quiet_train(config(text_file), url)


def test_no_run_there(faults, text_file):
    quiet_train(config(text_file, training__steps=2, eval__every=0), "s3://runs/other/base")
    with pytest.raises(UserError, match="no run there.*did you mean 'base'"):
        checkpoint.resolve("s3://runs/other/bass")


def test_google_cloud_storage(cache, text_file, tmp_path, monkeypatch):
    pytest.importorskip("gcsfs", reason="needs the extra gcs: pip install 'ptft_jax[gcs]'")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="runs")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        fsspec.filesystem("gs", token="anon").clear_instance_cache()
        made, url = config(text_file), "gs://runs/some/a"
        quiet_train(made, tmp_path / "whole")
        stop = [(lambda at: at.step == 3, lambda at: at.leave())]
        assert not quiet_train(made, url, hooks=stop)["finished"]
        monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "another machine"))
        assert quiet_train(made, url)["finished"]
        monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "a third"))
        workdir, step = checkpoint.resolve(f"{url}@last")
        ours, theirs = (checkpoint.read_meta(folder, step)["checksums"] for folder in (workdir, tmp_path / "whole"))
        assert ours == theirs and Workdir(workdir).steps() == Workdir(tmp_path / "whole").steps()
        with pytest.raises(UserError, match="gs://nothing-of-this-name/a: cannot be written"):
            quiet_train(made, "gs://nothing-of-this-name/a")
    finally:
        server.stop()
