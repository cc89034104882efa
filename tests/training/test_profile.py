"""A trace of some steps: it is there, it has those steps, and the run is the same with it."""

import gzip
import json
import re

import pytest

from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import checkpoint
from ptft_jax.training.assembly import train
from ptft_jax.training.profile import steps_of
from tests.helpers import quiet_train, stop_at, tiny_config


def config(text_file):
    return tiny_config(text_file, training__steps=5, eval__every=2)


def traced_steps(workdir):
    """The steps whose beginning and end are in the traces of a run."""
    found = []
    for file in sorted((workdir / "profile").rglob("*.trace.json.gz")):
        assert file.with_name(file.name.removesuffix(".trace.json.gz") + ".xplane.pb").stat().st_size > 0
        for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]:
            if event.get("name") == "train" and "step_num" in event.get("args", {}):
                found.append(int(event["args"]["step_num"]))
    return sorted(found)


def said(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().err)


@pytest.mark.heavy
def test_the_steps_are_in_the_trace_and_the_run_is_the_same(text_file, tmp_path, capsys):
    whole = quiet_train(config(text_file), tmp_path / "whole")
    traced = train(config(text_file), tmp_path / "traced", reporter=Reporter(), profile="1:3")
    assert traced_steps(tmp_path / "traced") == [2, 3]
    assert "profile: a trace of the steps 2 to 3" in said(capsys)
    sums = [checkpoint.read_meta(tmp_path / name, 5)["checksums"] for name in ("whole", "traced")]
    assert sums[0] == sums[1] and whole["after"] == traced["after"], "bit for bit"
    train(config(text_file), tmp_path / "traced", reporter=Reporter(), profile="1:3")
    assert "finished before" in said(capsys) and traced_steps(tmp_path / "traced") == [2, 3]


@pytest.mark.slow
@pytest.mark.heavy
def test_a_run_that_stops_and_continues_records_what_is_left(text_file, tmp_path, capsys):
    def launch():
        return train(config(text_file), tmp_path / "run", reporter=Reporter(), profile="1:4")

    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        launch()
    assert traced_steps(tmp_path / "run") == [2] and "a trace of the steps 2 to 2" in said(capsys)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)  # after two more
        launch()
    # Nothing is done before the first step of a launch that continues, so the trace begins after it.
    assert traced_steps(tmp_path / "run") == [2, 4] and "a trace of the steps 4 to 4" in said(capsys)
    assert launch()["finished"]
    assert traced_steps(tmp_path / "run") == [2, 4]
    assert "no trace: this launch made none of the steps 2 to 4 (--profile)" in said(capsys)


@pytest.mark.parametrize(
    "text, words",
    [
        ("3", "--profile=3: expected START:STOP, e.g. --profile=10:20"),
        ("a:b", "--profile=a:b: expected START:STOP"),
        ("-1:2", "--profile=-1:2: expected START:STOP"),
        ("3:3", "--profile=3:3: expected START below STOP"),
        ("4:2", "--profile=4:2: expected START below STOP"),
        ("2:6", "--profile=2:6: expected STOP at most config.training.steps = 5"),
    ],
)
def test_what_are_no_steps_of_the_run_is_refused_before_anything_is_written(text_file, tmp_path, text, words):
    with pytest.raises(UserError, match=re.escape(words)):
        quiet_train(config(text_file), tmp_path / "run", profile=text)
    assert not (tmp_path / "run").exists()
    assert steps_of("0:5", 5) == (0, 5)
