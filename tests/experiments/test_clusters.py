"""Graphs on clusters: a Ray cluster of nodes on this machine, and submitit's jobs. `make clusters`."""

import json
import os
import pathlib
import stat
import sys
import threading
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.experiments import launch
from ptft_jax.experiments.axes import grid
from ptft_jax.experiments.executors import elsewhere
from ptft_jax.experiments.nodes import Graph
from tests.experiments.test_scheduler import F, carry, here, read, status, sums  # noqa: F401  # `here` is a fixture
from tests.helpers import tiny_config
from tests.processes import ROOT

pytestmark = pytest.mark.slow


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


def test_ray_gives_what_this_process_gives(cluster, tmp_path):
    g = sums("a", "b", "c")
    carry(g, tmp_path / "inline")
    carry(g, tmp_path / "ray", "ray", 2)
    assert read(tmp_path / "inline") == read(tmp_path / "ray")


def test_on_ray_what_fails_or_is_killed_is_known(cluster, tmp_path):
    """A process that is killed is begun again, one that fails is not."""
    g = Graph()
    g.call("killed", F + "kill", times=1)
    g.call("fails", F + "fail", unless=str(tmp_path / "luck"))
    g.call("child", F + "add", of=["node:fails"])
    assert status(carry(g, tmp_path / "out", "ray", 2)) == {"killed": "finished", "fails": "failed", "child": "skipped"}
    assert json.loads((tmp_path / "out/state.json").read_text())["nodes"]["killed"]["attempts"] == 2


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


def test_jobs_give_what_this_process_gives(tmp_path):
    pytest.importorskip("submitit")
    g = sums("a", "b", "c")
    carry(g, tmp_path / "inline")
    by = launch.executor("slurm", 2, cluster="local", folder=tmp_path / "jobs", timeout_min=5)
    launch.launch(g, tmp_path / "jobs/out", by=by)
    assert read(tmp_path / "inline") == read(tmp_path / "jobs/out")


def test_jobs_that_fail_or_are_killed(tmp_path):
    pytest.importorskip("submitit")
    g = Graph()
    g.call("killed", F + "kill", times=1)
    g.call("fails", F + "fail", unless=str(tmp_path / "luck"))
    by = launch.executor("slurm", 1, cluster="local", folder=tmp_path / "jobs")
    assert status(launch.launch(g, tmp_path / "out", by=by)) == {"killed": "finished", "fails": "failed"}


@pytest.fixture(scope="module")
def twelve(tmp_path_factory, text_file):
    """A stage of pre-training and a sweep of twelve runs from it, and where they were carried out one after the other."""
    g, folder = Graph(), tmp_path_factory.mktemp("inline")
    config = tiny_config(text_file, training__steps=2, eval__every=2)
    base = g.run("base", config)
    axes = [grid("optimizer.learning_rate", 1e-3, 3e-3, 1e-2), grid("optimizer.b2", 0.9, 0.99)]
    g.sweep("rate", config, axes, seeds=2, init=base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        carry(g, folder)
    return g, folder


@pytest.mark.parametrize("where", ["local", "ray", "slurm"])
def test_runs_that_learn(cluster, twelve, tmp_path, where):
    """The same bits, and what one has made the other takes."""
    g, inline = twelve
    options = {"cluster": "local", "folder": tmp_path / "jobs"} if where == "slurm" else {}
    launch.launch(g, tmp_path / where, by=launch.executor(where, 2, **options))
    assert read(inline) == read(tmp_path / where)
    again = carry(g, tmp_path / where)
    assert {node["plan"] for node in again.values()} == {"cached"} and len(again) == 13


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


def test_a_machine_with_other_versions(tmp_path):
    asked = elsewhere.described()
    other = {**asked, "versions": {**asked["versions"], "jax": "0.0.1"}}
    found = elsewhere.carry_out({}, other)
    assert found["status"] == "failed" and "has other versions than the one that asks:\n  jax: " in found["message"]
    found = elsewhere.carry_out({}, {**asked, "folder": str(pathlib.Path(tmp_path) / "none")})
    assert "does not see" in found["message"]
