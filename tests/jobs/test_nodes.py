"""Nodes of an experiment as jobs (`--executor=jobs`), by tools that are fakes: machines taken away, refused, a driver that leaves or is gone."""

import dataclasses
import json
import os
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.experiments import launch
from ptft_jax.experiments.executors import as_jobs
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.experiments.nodes import Graph
from ptft_jax.jobs import record, request
from ptft_jax.reporting.progress import Reporter
from tests.jobs.world import CREATE, DELETE, DESCRIBE, READY, World, answer, log, state
from tests.processes import ROOT

TPU = {"on": "tpu", "topology": "v5e:2x4", "project": "p", "zone": "us-west4-a", "wheel": "ptft_jax-1-py3-none-any.whl"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """In a folder of a bucket that is mounted; see `World`."""
    world = World(tmp_path, monkeypatch)
    world.folder = tmp_path / "gcs/bucket"
    world.folder.mkdir(parents=True)
    (world.folder / TPU["wheel"]).write_bytes(b"")
    monkeypatch.setattr(request, "MOUNT", str(tmp_path / "gcs"))
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path / "gcs/bucket"))
    monkeypatch.chdir(world.folder)
    world.fake = tmp_path
    world.answers = lambda *answers: (tmp_path / "answers.json").write_text(json.dumps(answers))
    world.calls = lambda match: [
        line for line in (tmp_path / "calls.jsonl").read_text().splitlines() if match in _plain(line)
    ]
    return world


def _plain(line):
    return " ".join(json.loads(line))


def started(world, where=TPU, **settings):
    """An executor with a task, and where the files of its job are."""
    by = as_jobs.AsJobs(1, world.folder / "out", poll=0.02, **{**where, **settings})
    node = world.folder / "out/runs/lr.1-a"
    other = f"{request.MOUNT}/other/rows.jsonl"
    task = Task("lr.1/a", "call", str(node), {"data": other}, "f", {}, str(world.folder / "out/logs/a.log"))
    [here] = {world.folder / "out/jobs" / as_jobs._name(task)}
    return by, task, as_jobs.Files(here)


def end(by):
    """How the one node ended."""
    deadline = time.monotonic() + 60
    while (found := by.ended(0.1)) is None:
        assert time.monotonic() < deadline
    assert found[0] == "lr.1/a" and by.ended(0.0) is None
    return found[1]


def written(here, status="finished", **more):
    """What the machine leaves beside its log, whose end is told."""
    outcome = dataclasses.asdict(Outcome(status, **more))
    return {**log("done", status=0), "write": {str(here.outcome): json.dumps(outcome)}}


def test_a_node_is_a_job(world):
    """Its command, buckets and versions; machines that are taken away are replaced, and the same command goes on."""
    by, task, here = started(world, spot=True)
    world.answers(
        state("ACTIVE"), log("step 1"), state("SUSPENDED"),
        state("ACTIVE", times=9), READY, written(here, values={"sum": 1.5}, message="well"),
    )  # fmt: skip
    by.start(task)
    assert end(by) == Outcome("finished", "well", {"sum": 1.5})
    assert len(world.calls(CREATE)) == len(world.calls(DELETE)) == 2
    job = record.read(here.folder.name)
    assert job.request.words == ("node", f"--task={here.task}") and set(job.request.buckets) == {"bucket", "other"}
    assert f"jax=={by._by['versions']['jax']}" in (job.files / "install.sh").read_text() and job.state == "finished"
    assert json.loads(here.task.read_text())["task"] == dataclasses.asdict(task) | {"importable": []}
    assert "step 1" in here.said.read_text()
    by.close()


PLACES = {
    "gke": {"on": "gke", "topology": "v5e:2x4", "image": "i"},
    "vertex": {"on": "vertex", "topology": "v5e:2x4", "image": "i", "project": "p", "region": "us-west4"},
}


@pytest.mark.parametrize("on", PLACES)
def test_a_node_is_a_pod_or_a_custom_job(on, world):
    """With the same command, in the image that is given."""
    by, task, here = started(world, PLACES[on])
    left = {"write": written(here)["write"]}
    pods = {"items": [{"metadata": {"name": "n-0"}, "status": {"phase": "Succeeded"}}]}
    world.answers(
        *(
            answer("get jobset", json.dumps({"spec": {}, "status": {"terminalState": "Completed"}})),
            {**answer("get pods", json.dumps(pods)), **left},
        )
        if on == "gke"
        else (
            answer("custom-jobs create", "projects/1/locations/us-west4/customJobs/7\n"),
            {**answer("describe", json.dumps({"state": "JOB_STATE_SUCCEEDED"})), **left},
        )
    )
    by.start(task)
    assert end(by).status == "finished"
    given = "".join(path.read_text() for path in record.read(here.folder.name).files.glob("*.yaml"))
    assert "- node\n" in given and f"- --task={here.task}\n" in given.replace("'", "")


def test_no_machines_are_to_be_had(world):
    """The node failed, and its log says why; what was not answered by any machine is nobody's result."""
    by, task, here = started(world)
    world.answers(answer(CREATE, "", "ERROR: Quota limit 'X' has been exceeded.", 1))
    by.start(task)
    found = end(by)
    assert found.status == "failed" and "(quota)" in found.message
    assert "Quota limit" in (world.folder / "out/logs/a.log").read_text() and not record.read(here.folder.name).there


def test_a_command_that_left_nothing_is_begun_again(world):
    """As a process that was killed is; its machines are gone first."""
    by, task, here = started(world)
    killed = {**log("a"), "out": "ptft-job-log\na\nptft-job-status none\n", "status": 0, "err": ""}
    world.answers(state("ACTIVE", times=99), READY, killed)
    by.start(task)
    found = end(by)
    assert found.status == "killed" and "left no outcome" in found.message
    assert world.calls(DELETE) and not record.read(here.folder.name).there
    world.answers(state("ACTIVE", times=99), READY, written(here, "failed", message="no luck"))
    by.start(task)
    assert end(by) == Outcome("failed", "no luck") and len(world.calls(CREATE)) == 2


def test_who_waits_for_machines_leaves_at_once(world):
    by, task, here = started(world)
    world.answers(state("WAITING_FOR_RESOURCES", times=999))
    by.start(task)
    while not world.fake.joinpath("calls.jsonl").exists() or not world.calls(DESCRIBE):
        time.sleep(0.01)
    by.stop()
    assert end(by).status == "interrupted" and len(world.calls(DELETE)) == 1
    assert record.read(here.folder.name).state == "deleted"


def test_what_runs_is_asked_to_save(world, monkeypatch):
    """By a file that the machine sees; one that does not answer is ended."""
    by, task, here = started(world)
    blocks = {**log("a"), "write": {str(here.began): ""}}
    world.answers(state("ACTIVE", times=999), READY, blocks, *[log()] * 3)
    monkeypatch.setattr(as_jobs, "_GRACE", 0.2)
    by._poll = 0.5
    by.start(task)
    while not here.began.exists():
        time.sleep(0.01)
    by.stop()
    assert here.leave.exists()
    assert end(by).status == "interrupted" and len(world.calls(DELETE)) == 1


def test_a_driver_that_is_gone_leaves_jobs_to_the_next(world):
    """The one that goes on is taken up: no second is created."""
    by, task, here = started(world)
    world.answers(state("WAITING_FOR_RESOURCES", times=999))
    by.start(task)
    while not (world.fake / "jobs" / here.folder.name / "job.json").exists() or not record.read(here.folder.name).there:
        time.sleep(0.01)
    again, _, _ = started(world)
    again.start(task)
    refused = end(again)
    assert refused.status == "failed" and "another launch drives this job" in refused.message
    job = next(iter(by._jobs.values()))
    job._over.set()  # as if this process had ended, without a word to anybody
    job._here = as_jobs.Files(world.folder)
    real, record.Job.become = record.Job.become, lambda self, **_: None
    world_delete, as_jobs.places.place = (
        as_jobs.places.place,
        lambda *_: type("Gone", (), {"delete": lambda self: None})(),
    )
    try:
        job.join()
    finally:
        record.Job.become, as_jobs.places.place = real, world_delete
    world.answers(state("ACTIVE", times=99), READY, written(here))
    again.start(task)
    assert end(again).status == "finished"
    assert len(world.calls(CREATE)) == 1 and "is taken up" in here.said.read_text()


REFUSED = [
    ({"on": ""}, "--job on=PLACE is missing"),
    ({"on": "tpus"}, "--on=tpus: .*did you mean 'tpu'"),
    ({"zone": ""}, "--zone is missing.*--job NAME=VALUE"),
    ({"topology": "v5e:4x4"}, "has 4 hosts, and node runs on one"),
    ({"topologie": "v5e:2x4"}, "topologie is no setting of jobs .did you mean 'topology'"),
    ({"spot": "yes"}, "--job=spot=yes: expected true or false"),
    ({"retries": "x"}, "--job=retries=x: expected a number"),
    ({"keep": "true"}, "keep is no setting"),
    ({"buckets": ("gs://b",)}, "--buckets=gs://b: expected the name of a bucket"),
    ({"pin": ("jax",)}, "--pin=jax: expected NAME==VERSION"),
]


@pytest.mark.parametrize("settings, said", REFUSED)
def test_what_is_refused(settings, said, world):
    with pytest.raises(UserError, match=said):
        as_jobs.AsJobs(1, world.folder / "out", **{**TPU, **settings})


def test_folders_that_machines_do_not_see_are_refused(world, monkeypatch, tmp_path):
    for out in (tmp_path / "out", tmp_path / "gcs/unmounted/out"):
        with pytest.raises(UserError, match=r"machines of --job on=tpu do not see --out .*/gcs/.*gcsfuse"):
            as_jobs.AsJobs(1, out, **TPU)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="do not see this folder"):
        as_jobs.AsJobs(1, world.folder / "out", **TPU)


@pytest.mark.heavy
def test_a_graph_on_a_cluster(tmp_path, monkeypatch):
    """What this process gives; what fails keeps its log; what is preempted is put back and goes on; a second launch has nothing to do."""
    world = World(tmp_path, monkeypatch)
    monkeypatch.chdir(ROOT)
    (tmp_path / "nodes").mkdir()
    tools = {"srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"', "scontrol": 'touch "$FAKE/nodes/$2/requeue"'}
    for name, does in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    g = Graph()
    g.call("add", "tests.experiments.functions:add", number=3)
    g.call("fails", "tests.experiments.functions:fail", unless=str(tmp_path / "luck"))
    g.call("preempted", "tests.jobs.functions:preempted")
    g.call("sum", "tests.experiments.functions:add", of=["node:add"])

    def carry(name, by):
        return launch.launch(g, tmp_path / name, by=by, reporter=Reporter(quiet=True))

    found = carry("out", launch.executor("jobs", 3, out=tmp_path / "out", on="slurm", poll=0.1))
    assert {name: one["status"] for name, one in found.items()} == {
        "add": "finished", "fails": "failed", "preempted": "finished", "sum": "finished",
    }  # fmt: skip
    assert "no luck" in (tmp_path / "out/logs/fails.log").read_text() and found["preempted"]["attempts"] == 1
    summary = json.loads((tmp_path / "out/summary.json").read_text())["nodes"]
    assert {node["name"]: (node.get("result") or {}).get("sum") for node in summary}["sum"] == 3.0
    (tmp_path / "luck").touch()
    submitted = len(world.calls("sbatch"))
    found = carry("out", launch.executor("jobs", 3, out=tmp_path / "out", on="slurm", poll=0.1))
    assert found["fails"]["status"] == "finished" and len(world.calls("sbatch")) == submitted + 1
