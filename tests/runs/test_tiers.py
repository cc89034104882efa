"""Checkpoints on a machine's own disk: a run that ends without a word goes on from them, with the bits of one that did not."""

import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint
from tests.helpers import quiet_train, tiny_config

STEPS = 6


class Lost(Exception):
    """The machine's power is gone: nothing is saved."""


def config(text_file, local=""):
    more = {"checkpoint__local": str(local), "checkpoint__local_every": 2} if local else {}
    made = tiny_config(text_file, training__steps=STEPS, eval__every=0, model__dropout=0.1, **more)
    made.eval.update(test=False, tokens=64)
    return made


def lose(step):
    def do(at):
        raise Lost

    return [(lambda at: at.step == step, do)]


def steps(workdir):
    return [row["step"] for row in Workdir(workdir).read_metrics() if row["kind"] == "train"]


@pytest.mark.heavy
def test_a_run_goes_on_from_the_disk_of_its_machine(text_file, tmp_path):
    disk, run = tmp_path / "disk", tmp_path / "run"
    quiet_train(config(text_file), tmp_path / "whole")
    with pytest.raises(Lost):
        quiet_train(config(text_file, disk), run, hooks=lose(5))
    [place] = disk.iterdir()
    assert Workdir(run).steps() == [0] and Workdir(place).steps() == [4]
    said = []
    seen = [(lambda at: True, lambda at: said.append(at.step))]
    with pytest.raises(Lost):
        quiet_train(config(text_file, disk), run, hooks=[*seen, *lose(5)])
    assert said == [5], "it goes on behind step 4"
    largest = max((p for p in (place / "checkpoints/4").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    quiet_train(config(text_file, disk), run)  # what is damaged is not gone on from: from step 0 of the workdir
    assert not place.exists(), "of a run that has ended nothing is left there"
    ours, theirs = (checkpoint.read_meta(folder, STEPS)["checksums"] for folder in (run, tmp_path / "whole"))
    assert ours == theirs and steps(run) == steps(tmp_path / "whole")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"local_every": 0}, "checkpoint.local_every is missing"),
        ({"local": "gs://bucket/x"}, "config.checkpoint.local = 'gs://bucket/x': expected a path of a file system"),
    ],
)
def test_bad_input(text_file, tmp_path, changes, said):
    wrong = config(text_file, tmp_path / "disk")
    wrong.checkpoint.update(changes)
    with pytest.raises(UserError, match=said):
        quiet_train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
