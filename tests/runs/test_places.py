"""Paths, and what looks like one."""

import pathlib

import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import bucket, checkpoint, places
from ptft_jax.training import assembly
from tests.helpers import tiny_config
from tests.processes import ptft


@pytest.mark.parametrize(
    "place", ["gs://bucket/x", "s3://b/run@best", "file:///tmp/x", "hdfs://host:1/x", "gs:/bucket/x"]
)
def test_a_url_is_no_path(place, tmp_path, monkeypatch, text_file):
    monkeypatch.chdir(tmp_path)
    for given in (place, pathlib.Path(place)):
        with pytest.raises(UserError, match="expected a path of a file system, not a URL"):
            places.local(given, "--out")
    if not bucket.is_url(place):
        with pytest.raises(UserError, match="--workdir=.*not a URL"):
            assembly.train(tiny_config(text_file), place)
        with pytest.raises(UserError, match="not a URL"):
            checkpoint.resolve(place)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["runs/x", "C:/runs", "/a/b:c/d", "lr[0.1]", "a:b", "./gs:/x", "~/runs"])
def test_a_path_is_one(place):
    assert places.local(place, "--out") == pathlib.Path(place)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "verb, flag",
    [
        ("export", "--out"),
        *(pytest.param(v, "--out", marks=pytest.mark.slow) for v in ("report", "compare", "combine")),
    ],
)
def test_no_verb_makes_a_folder_named_after_a_bucket(verb, flag, tmp_path):
    words = {
        "report": ["--run=x"],
        "compare": ["x"],
        "combine": ["--method=soup", "--run=x", "--run=y"],
        "export": ["--run=x"],
    }[verb]
    done = ptft(verb, *words, f"{flag}=gs://bucket/x", cache=tmp_path)
    assert done.returncode == 2 and "not a URL (gs://)" in done.stderr and "Traceback" not in done.stderr, done.stderr
