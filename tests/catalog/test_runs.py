"""The list of runs: what is known of each, which are meant, what is read again."""

import csv
import io
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from ptft_jax import config as configs
from ptft_jax.catalog import facts, where
from ptft_jax.catalog.index import Index
from ptft_jax.errors import UserError
from tests.processes import ptft

CONFIG = configs.check(configs.default(), complete=False).as_dict()


def write(folder, *, metrics=(), summary=None, parent=None, **changes):
    """A run's folder, as far as it is read."""
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(CONFIG))
    for path, value in changes.items():
        section, name = path.split("__")
        config[section][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    chain = [] if parent is None else [{"workdir": str(parent), "step": 7, "run_id": "x"}]
    (folder / "lineage.json").write_text(json.dumps(chain))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def finished(nll, **more):
    return {"finished": True, "step": 10, "after": {"validation/nll": nll}, "transfer": None, **more}


@pytest.fixture
def runs(tmp_path):
    """A base, two that were started from it, and of each other state one."""
    base = write(tmp_path / "base", summary=finished(3.0))
    transfer = {"target": {"gain": 0.5}, "source": {"forgetting": 0.25}}
    write(tmp_path / "sweep/lora", parent=base, summary=finished(2.5, transfer=transfer), tune__method="lora")
    rows = [{"step": 3, "kind": "train", "loss": 4.5}, {"step": 3, "kind": "eval", "validation/nll": 4.25}]
    write(tmp_path / "sweep/stopped", parent=base, metrics=rows)
    write(tmp_path / "sweep/diverged").joinpath("nonfinite_step_4.npz").write_bytes(b"")
    write(tmp_path / "damaged").joinpath("summary.json").write_text('{"finished": tr')
    (tmp_path / "base/inside").mkdir()  # of a run, whatever it is
    shutil.copy(tmp_path / "base/config.json", tmp_path / "base/inside")
    (tmp_path / ".hidden").mkdir()
    shutil.copy(tmp_path / "base/config.json", tmp_path / ".hidden")
    return tmp_path


def listed(folder, *columns, condition="", sort=()):
    with Index(folder) as index:
        names = index.names()
        return index.rows(columns, where.parse(condition, names, "--where") if condition else None, sort)


def test_what_is_known(runs, cache):
    found = {
        row["name"]: row
        for row in listed(runs, "name", "state", "step", "parent", "ancestors", "tune.method", "transfer.target.gain")
    }
    assert {name: row["state"] for name, row in found.items()} == {
        "base": facts.FINISHED, "damaged": facts.DAMAGED, "sweep/diverged": facts.NOT_FINITE, "sweep/lora": facts.FINISHED,
        "sweep/stopped": facts.STOPPED,
    }  # fmt: skip
    assert found["sweep/lora"] | {"name": ""} == {
        "name": "", "state": "finished", "step": 10, "parent": "base@7", "ancestors": 1, "tune.method": "lora", "transfer.target.gain": 0.5,
    }  # fmt: skip
    assert found["sweep/stopped"]["step"] == 3 and found["base"]["parent"] is None
    [row] = listed(runs, "latest.validation/nll", "latest.loss", "after.validation/nll", condition="name ~ STOPPED")
    assert row == {"latest.validation/nll": 4.25, "latest.loss": 4.5, "after.validation/nll": None}
    [row] = listed(runs, "problem", condition="state = damaged")
    assert "summary.json: is damaged, it is not JSON" in row["problem"]


MEANT = {
    "tune.method = lora": {"sweep/lora"},
    "tune.method=='lora' and after.validation/nll<2.6": {"sweep/lora"},
    "after.validation/nll >= 2.5": {"base", "sweep/lora"},
    "after.validation/nll > 2.5 or latest.validation/nll > 4": {"base", "sweep/stopped"},
    "after.validation/nll != 3": {"sweep/lora"},
    "not after.validation/nll = 3": {"damaged", "sweep/diverged", "sweep/lora", "sweep/stopped"},
    "after.validation/nll = none and not state = damaged": {"sweep/diverged", "sweep/stopped"},
    "parent != none": {"sweep/lora", "sweep/stopped"},
    "(state = finished or state=stopped) and parent ~ BASE": {"sweep/lora", "sweep/stopped"},
    "state = finished or state = stopped and parent = none": {"base", "sweep/lora"},  # "and" binds closer
    "finished = true and transfer.source.forgetting < 1e0": {"sweep/lora"},
    "after.validation/nll < lora": set(),  # a number is no text
    "tune.method > 1": set(),
}


@pytest.mark.parametrize("condition", MEANT)
def test_which_are_meant(runs, cache, condition):
    assert {row["name"] for row in listed(runs, "name", condition=condition)} == MEANT[condition]


WRONG = {
    "tune.metod = lora": r"no run has 'tune.metod' \(did you mean 'tune.method'\?\), at character 1",
    "tune.method lora": "expected one of = .*, at character 13",
    "tune.method =": "expected a value, at character 14",
    "(state = finished": r"expected '\)', at character 18",
    "state = finished state": "expected 'and' or 'or', at character 18",
    "state < none": "none is compared by = or !=, at character 7",
    "state = 'finished": "not understood, at character 8",
    "and": "no run has 'and'",
}


@pytest.mark.parametrize("condition", WRONG)
def test_what_is_no_condition(runs, cache, condition):
    with pytest.raises(UserError, match=f"--where: {WRONG[condition]}"):
        listed(runs, "name", condition=condition)


def test_order(runs, cache):
    """Runs without a value come last, either way; those that are even by name."""
    names = ["base", "sweep/lora", "damaged", "sweep/diverged", "sweep/stopped"]
    key = "after.validation/nll"
    assert [row["name"] for row in listed(runs, "name", sort=[(key, True)])] == names
    assert [row["name"] for row in listed(runs, "name", sort=[(key, False)])] == [*names[1::-1], *names[2:]]


def test_what_changes_is_read_again(runs, cache, monkeypatch):
    listed(runs, "name")
    (runs / "base/summary.json").write_text(json.dumps(finished(2.75)))
    shutil.rmtree(runs / "sweep/lora")
    write(runs / "late", summary=finished(1.0))
    read, of = [], facts.of
    monkeypatch.setattr(facts, "of", lambda path: read.append(path.name) or of(path))
    found = {row["name"]: row["after.validation/nll"] for row in listed(runs, "name", "after.validation/nll")}
    assert found == {"base": 2.75, "damaged": None, "late": 1.0, "sweep/diverged": None, "sweep/stopped": None}
    assert sorted(read) == ["base", "diverged", "late", "stopped"]  # and where a run stands that has not finished


def test_a_second_listing_reads_no_file_of_a_finished_run(runs, cache, monkeypatch):
    for name in ("sweep/stopped", "sweep/diverged", "damaged"):
        shutil.rmtree(runs / name)
    first = listed(runs, "name", "after.validation/nll", "parent")

    def refuse(*_, **__):
        raise AssertionError("a file was read")

    for method in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(pathlib.Path, method, refuse)
    assert listed(runs, "name", "after.validation/nll", "parent") == first and len(first) == 2


def test_an_index_that_is_damaged_or_cannot_be_written(runs, cache, monkeypatch):
    before = listed(runs, "name", "state")
    [index] = (cache / "runs").iterdir()
    index.write_bytes(b"no database" * 100)
    assert listed(runs, "name", "state") == before
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA user_version = 99")  # of another version
    assert listed(runs, "name", "state") == before
    monkeypatch.setenv("PTFT_CACHE", "/proc/none")
    assert listed(runs, "name", "state") == before


def test_who_is_running(runs, cache):
    """A process that is alive and gives signs of it; not one that has ended, on this machine or, silent for a minute, on another."""
    from ptft_jax.runs import owner as owners

    owner = runs / "sweep/stopped/owner.json"

    def state(**changes):
        owner.write_text(
            json.dumps({"machine": owners.machine(), "pids": owners.pids(), "process": os.getpid(), **changes})
        )
        return listed(runs, "state", condition="name ~ stopped")[0]["state"]

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert state() == facts.RUNNING
    assert state(process=ended.pid) == facts.STOPPED
    assert state(machine="another") == facts.RUNNING
    os.utime(owner, (time.time() - 60,) * 2)
    assert listed(runs, "state", condition="name ~ stopped")[0]["state"] == facts.STOPPED
    owner.write_text("{")
    assert listed(runs, "state", condition="name ~ stopped")[0]["state"] == facts.STOPPED


def test_at_the_command_line(runs, cache):
    words = ("runs", str(runs), "--where=tune.method=lora", "--columns=name,after.validation/nll,init.from")
    done = ptft(*words, "--csv", check=True)
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        ["name", "after.validation/nll", "init.from"],
        ["sweep/lora", "2.5", ""],
    ]
    assert "1 of 5 runs" in ptft(*words, check=True).stdout
    for flag, problem in {
        "--sort=-after.validation/nl": "--sort: no run below .* has 'after.validation/nl' (did you mean 'after.validation/nll'",
        "--csv --json": "choose one",
    }.items():
        done = ptft("runs", str(runs), *flag.split())
        assert done.returncode == 2 and problem.replace(".*", str(runs)) in done.stderr
    done = ptft("runs", str(runs / "sweeps"))
    assert done.returncode == 2 and "no such folder (did you mean 'sweep'?)" in done.stderr
