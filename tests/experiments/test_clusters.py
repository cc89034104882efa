"""Graphs on clusters: a Ray cluster of nodes on this machine, and submitit's jobs. `make clusters`."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import stat
import sys
import threading
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.experiments import launch
from ptft_jax.experiments.axes import grid
from ptft_jax.experiments.executors import elsewhere
from ptft_jax.experiments.executors.base import Outcome
from ptft_jax.experiments.executors.inline import Inline
from ptft_jax.experiments.nodes import Graph
from tests.experiments.test_scheduler import QUIET, F, carry, driver_ends, here, read, status, sums  # noqa: F401  # `here` is a fixture
from tests.helpers import tiny_config
from tests.processes import ROOT

slow = pytest.mark.slow
WHERE = ("ray", "slurm")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of three nodes on this machine, the first with nothing to compute on."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [found.add_node(num_cpus=1) for _ in range(2)]
        patch.setenv("RAY_ADDRESS", found.address)
        yield found, nodes
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def by(request, tmp_path):
    """Gives an executor by its name, with its cluster."""

    def made(name, slots=2):
        if name == "ray":
            request.getfixturevalue("cluster")
        return launch.executor(name, slots, **options(name, tmp_path))

    return made


def options(name, folder):
    if name != "slurm":
        return {}
    pytest.importorskip("submitit")
    return {"cluster": "local", "folder": str(folder / "jobs"), "timeout_min": 30}


def twin(graph, folder):
    """What becomes of a graph that is left alone."""
    carry(graph, folder)
    return read(folder)


@slow
@pytest.mark.parametrize("where", WHERE)
def test_it_gives_what_this_process_gives(where, by, tmp_path):
    g = sums("a", "b", "c")
    launch.launch(g, tmp_path / where, by=by(where), reporter=QUIET)
    assert read(tmp_path / where) == twin(g, tmp_path / "inline")


@slow
@pytest.mark.parametrize("where", WHERE)
def test_what_fails_or_is_killed_is_known(where, by, tmp_path):
    """A process that is killed is begun again, one that fails is not."""
    g = Graph()
    g.call("killed", F + "kill", times=1, tries=str(tmp_path / "tries"))
    g.call("fails", F + "fail", unless=str(tmp_path / "luck"))
    g.call("child", F + "add", of=["node:fails"])
    found = launch.launch(g, tmp_path / "out", by=by(where), reporter=QUIET)
    assert status(found) == {"killed": "finished", "fails": "failed", "child": "skipped"}
    assert found["killed"]["attempts"] == 2
    assert read(tmp_path / "out") == twin(g, tmp_path / "whole"), "who is not killed comes to the same"


@slow
@pytest.mark.parametrize("where", WHERE)
def test_the_driver_is_interrupted(where, request, tmp_path):
    if where == "ray":
        request.getfixturevalue("cluster")
    driver_ends(signal.SIGINT, 130, tmp_path, where, **options(where, tmp_path))


@slow
def test_a_node_of_the_cluster_dies(cluster, tmp_path):
    """What it carried out is begun again on another."""
    found, nodes = cluster
    g = Graph()
    for name in "ab":  # one on each node
        g.call(name, F + "wait", until=str(tmp_path / "go"), number=ord(name))
    outcomes = {}
    thread = threading.Thread(target=lambda: outcomes.update(carry(g, tmp_path / "out", "ray", 2)))
    thread.start()
    began = [tmp_path / f"out/runs/{name}/began" for name in "ab"]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in began) and time.monotonic() < deadline:
        time.sleep(0.1)
    found.remove_node(nodes.pop())
    found.add_node(num_cpus=1)
    (tmp_path / "go").touch()
    thread.join(240)
    assert status(outcomes) == {"a": "finished", "b": "finished"}
    assert sorted(outcome["attempts"] for outcome in outcomes.values()) in ([1, 2], [2, 2])
    assert read(tmp_path / "out") == twin(g, tmp_path / "whole")


def swept(text_file, folder, *axes, **changes):
    """A stage of pre-training and a sweep of runs from it, and where they were carried out one after the other."""
    g = Graph()
    config = tiny_config(text_file, training__steps=2, eval__every=2)
    base = g.run("base", config)
    g.sweep("rate", config, axes, init=base, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        carry(g, folder)
    return g, folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory, text_file):
    axes = grid("optimizer.learning_rate", 1e-3, 3e-3, 1e-2), grid("optimizer.b2", 0.9, 0.99)
    return swept(text_file, tmp_path_factory.mktemp("inline"), *axes, seeds=2)


@slow
@pytest.mark.parametrize("where", ["local", *WHERE])
def test_runs_that_learn(where, by, twelve, tmp_path):
    """The same bits, and what one has made the other takes."""
    carried_out_alike(*twelve, tmp_path / where, by(where))


@pytest.mark.heavy
def test_two_runs_that_learn(text_file, tmp_path):
    """In processes of their own; of more, and on clusters, `test_runs_that_learn` is."""
    g, inline = swept(text_file, tmp_path / "inline", grid("optimizer.learning_rate", 1e-3, 1e-2))
    carried_out_alike(g, inline, tmp_path / "local", launch.executor("local", 2))


def carried_out_alike(g, inline, folder, by):
    launch.launch(g, folder, by=by, reporter=QUIET)
    assert read(inline) == read(folder)
    again = carry(g, folder)
    assert {node["plan"] for node in again.values()} == {"cached"} and len(again) == len(g.nodes)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory, text_file):
    """A run that lasts some seconds, and what becomes of it when it is left alone."""
    g, folder = Graph(), tmp_path_factory.mktemp("whole")
    g.run("one", tiny_config(text_file, training__steps=400, eval__every=400, checkpoint__every=100))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return g, twin(g, folder)


class Disturbed(threading.Thread):
    """Does something to the process that carries a run out, once that trains."""

    def __init__(self, folder, what):
        super().__init__(daemon=True)
        self.folder, self.what = folder / "runs/one", what

    def run(self):
        metrics, deadline = self.folder / "metrics.jsonl", time.monotonic() + 240
        while not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.what(json.loads((self.folder / "owner.json").read_text())["process"])


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@slow
@pytest.mark.parametrize("where", WHERE)
def test_a_run_is_killed(where, by, long_run, tmp_path):
    """It goes on where it was, to what it comes to when nobody kills it."""
    g, whole = long_run
    disturbed = Disturbed(tmp_path / "out", lambda pid: os.kill(pid, signal.SIGKILL))
    disturbed.start()
    found = launch.launch(g, tmp_path / "out", by=by(where), reporter=QUIET)
    assert status(found) == {"one": "finished"} and found["one"]["attempts"] == 2
    assert read(tmp_path / "out") == whole


@slow
@pytest.mark.parametrize("first", ["SIGUSR2", "SIGTERM"])
def test_a_job_is_preempted(first, by, long_run, tmp_path):
    """Who takes its machine away signals all of its processes, and it puts itself back into the queue: it is one job, which goes on."""
    g, whole = long_run
    jobs = by("slurm")

    def preempt(worker):
        task = parent(worker)
        os.kill(worker, signal.Signals[first])
        if first == "SIGTERM":  # and has saved before its parent hears of it
            while pathlib.Path(f"/proc/{worker}").exists():
                time.sleep(0.05)
        os.kill(task, signal.SIGUSR2)

    disturbed = Disturbed(tmp_path / "out", preempt)
    disturbed.start()
    found = launch.launch(g, tmp_path / "out", by=jobs, reporter=QUIET)
    disturbed.join()
    assert status(found) == {"one": "finished"} and found["one"]["attempts"] == 1
    assert read(tmp_path / "out") == whole
    [said] = [path.read_text() for path in (tmp_path / "jobs").glob("*.out")]
    assert said.count("Requeued job") == said.count("completed successfully") == 1
    assert re.search(r"; step [1-9]\d* of 400", (tmp_path / "out/logs/one.log").read_text()), "from where it was"


@slow
def test_the_file_that_is_submitted(tmp_path, monkeypatch):
    """By an `sbatch` that keeps what it is given."""
    pytest.importorskip("submitit")
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/given.sh\necho "Submitted batch job 7"\n')
    for name in ("srun", "scancel", "sacct"):
        (bin / name).write_text("#!/bin/sh\n")
    for path in bin.iterdir():
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    by = launch.executor("slurm", 1, folder=tmp_path / "jobs", timeout_min=90, slurm_partition="gpu", gpus_per_node=2)
    from ptft_jax.experiments.executors.base import Task

    by.start(Task("a", "call", str(tmp_path / "a"), {}, "f", {}, str(tmp_path / "a.log")))
    given = (tmp_path / "given.sh").read_text().splitlines()
    for line in ("#SBATCH --partition=gpu", "#SBATCH --time=90", "#SBATCH --gpus-per-node=2"):
        assert line in given
    assert any(line.startswith("srun ") and sys.executable in line for line in given)
    with pytest.raises(UserError, match="--executor=slurm: .*partitions"):
        launch.executor("slurm", 1, folder=tmp_path / "jobs", slurm_partitions="gpu")


class ThisMachine(Inline):
    """Carries nodes out as a machine of a cluster would, asked by one with other versions."""

    def __init__(self, asked_by):
        super().__init__()
        self._asked = asked_by

    def start(self, task):
        self._ended.append((task.name, Outcome(**elsewhere.carry_out(dataclasses.asdict(task), self._asked))))


def test_a_machine_with_other_versions(tmp_path):
    """Nothing is begun there, and what needs it is skipped."""
    asked = elsewhere.described()
    other = {**asked, "versions": {**asked["versions"], "jax": "0.0.1"}}
    g = sums("a")
    found = launch.launch(g, tmp_path / "out", by=ThisMachine(other), reporter=QUIET)
    assert status(found) == {"start": "failed", "a": "skipped", "all": "skipped"}
    assert "has other versions than the one that asks:\n  jax: " in found["start"]["message"]
    assert not (tmp_path / "out/runs/start").exists()
    found = elsewhere.carry_out({}, {**asked, "folder": str(tmp_path / "none")})
    assert "does not see" in found["message"]
