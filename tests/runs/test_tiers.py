"""Checkpoints on a machine's own disk: a run that ends without a word goes on from them, with the bits of one that did not."""

import jax
import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import tiers
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint
from tests.helpers import quiet_train, tiny_config
from tests.runs.test_saving import at

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


def test_what_another_mesh_left_is_in_nobodys_way(tmp_path, monkeypatch):
    """After a change of mesh the run comes to the same steps again, from an earlier one of the workdir."""
    mesh = ["one"]
    monkeypatch.setattr(Workdir, "run_id", "of the run")
    monkeypatch.setattr(tiers.Local, "_layout", lambda self, params: mesh[0])

    def launched(*saved, than=4):
        """(step gone on from or None, what is said) of a launch that saves these."""
        local = tiers.Local(tmp_path / "disk", tmp_path / "run", "min")
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), at(0))
        found, said = local.newer(than, like, like.trainable)
        for step in saved:
            local.save(at(step), at(step).trainable, {"best": [None, -1, 0]})
        local.close(finished=False)
        return found and found.meta["step"], said

    assert launched(8) == (None, "") and launched() == (8, "")
    [place] = (tmp_path / "disk").iterdir()
    (place / "process-0-of-2/checkpoints/8").mkdir(parents=True)
    mesh[0] = "another"
    found, said = launched(5)
    assert found is None and "checkpoint 8 in" in said and "of another mesh" in said
    assert launched(8) == (5, "") and launched() == (8, "")
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["checkpoints"]


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
