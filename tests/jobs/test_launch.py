"""`ptft launch`: what is refused before anything is created, defaults, records, two launches of one name, Ctrl-C."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ptft_jax.cli import VERBS
from ptft_jax.errors import UserError
from ptft_jax.jobs import bundle, record, request
from ptft_jax.verbs import launch as verb
from tests.jobs.world import READY, TPU, TRAIN, World, log, state


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


SLURM = {"on": "slurm"}
GKE = {"on": "gke", "topology": "v5e:4x4", "image": "i"}
REFUSED = [
    ({**TPU, "on": "tpus"}, TRAIN, r"--on=tpus: .*did you mean 'tpu'"),
    ({**TPU, "topology": ""}, TRAIN, "--topology is missing"),
    ({**TPU, "topology": "v5:4x4"}, TRAIN, r"--topology=v5:4x4: .*did you mean"),
    ({**TPU, "topology": "v5e:3x5"}, TRAIN, "v5e has the shapes"),
    ({**TPU, "topology": "v5p:4x4x6"}, TRAIN, "multiples of 4"),
    ({**TPU, "topology": "cpu:8"}, TRAIN, "a slice of TPUs"),
    ({**TPU, "topology": "tpu7x:2x2x1"}, TRAIN, "--on=gke"),
    ({**TPU, "project": ""}, TRAIN, "--project is missing"),
    ({**TPU, "zone": ""}, TRAIN, "--zone is missing"),
    ({**TPU, "zone": "us-west4"}, TRAIN, "expected a zone"),
    ({**TPU, "region": "us-west4"}, TRAIN, "no effect with --on=tpu"),
    ({**TPU, "extra": ("network=x",)}, TRAIN, "--extra=network=x: expected a flag"),
    (TPU, (), "the command is missing"),
    (TPU, ("train", "--config=c"), "--workdir is missing"),
    (TPU, ("tain",), r"did you mean 'train'"),
    (TPU, ("dashboard",), "a verb that computes"),
    (TPU, ("eval", "--run=gs://b/r"), "has 4 hosts, and eval runs on one"),
    (TPU, ("train", "--config=c", "--workdir=runs/base"), "goes with it: expected gs://"),
    (TPU, ("train", "--config=c", "--workdir", "runs/base"), "goes with it: expected gs://"),
    (TPU, ("train", "--config=c", "--workdir=s3://b/x"), "gs:// is mounted"),
    ({**GKE, "image": ""}, TRAIN, "--image is missing"),
    ({**GKE, "zone": "us-west4-a"}, TRAIN, "--zone=us-west4-a: has no effect with --on=gke"),
    ({**GKE, "on": "vertex"}, TRAIN, "have one host"),
    ({**SLURM, "copy": ("a", "b")}, TRAIN, "--copy=a,b: has no effect with --on=slurm"),
    ({**TPU, "image": "i", "extras": "hf"}, TRAIN, "--image and --extras"),
    ({**SLURM, "topology": "v5e:4x4"}, TRAIN, "no effect with --on=slurm"),
    ({**SLURM, "nodes": 2}, ("eval",), "--nodes=2: eval runs on one"),
    (SLURM, TRAIN, "a path that all machines see"),
    ({**TPU, "nodes": 2}, TRAIN, "--nodes=2: has no effect"),
]


@pytest.mark.parametrize("settings, words, said", REFUSED)
def test_what_is_refused(settings, words, said):
    with pytest.raises(UserError, match=said):
        request.check(request.Request(name="base", words=words, **settings))


@pytest.mark.parametrize("name", ["", "Base", "1base", "base-", "a" * 41, "a/b"])
def test_names(name):
    with pytest.raises(UserError, match="--name"):
        request.check_name(name)


def test_files_that_nobody_copies_are_refused(world):
    (world.folder / "mine.py").write_text("")
    base = request.Request(
        name="base",
        words=("train", "--config=mine.py:small", "--workdir=/gcs/b/x"),
        **TPU,
        wheel="ptft_jax-1-py3-none-any.whl",
    )
    with pytest.raises(UserError, match=r"--config=mine\.py: is a file of this machine alone: --copy=mine\.py"):
        bundle.check(base)
    bundle.check(dataclasses.replace(base, copy=("mine.py",)))
    for changed, said in (
        ({"copy": ("no.py",)}, "is not there"),
        ({"copy": ("/etc/hosts",)}, "below this folder"),
        ({"wheel": "x.whl"}, "--wheel"),
    ):
        with pytest.raises(UserError, match=said):
            bundle.check(dataclasses.replace(base, **changed))


def test_verbs_are_those_of_ptft():
    assert set(request.VERBS) <= set(VERBS)


def launch(world, *words, **options):
    """`ptft launch WORDS` in a process of its own."""
    command = [sys.executable, "-m", "ptft_jax.cli", "launch", *words]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "encoding": "utf-8",
        "cwd": world.folder,
        **options,
    }
    return subprocess.Popen(command, **options)


def done(world, *words):
    process = launch(world, *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


MISSING = "gcloud is not installed"


@pytest.mark.heavy
def test_the_command(world):
    """Defaults of a file; a second launch of the name is refused; follow, list and delete."""
    (world.folder / "launch.toml").write_text(
        'project = "p"\nzone = "us-west4-a"\nspot = true\nwheel = "ptft_jax-1-py3-none-any.whl"\n'
    )
    world.answers(state("ACTIVE", times=99), READY, log("step 1", status=0))
    words = [
        "--name=base",
        "--on=tpu",
        "--topology=v5e:4x4",
        "--poll=0.01",
        "--env=TOKEN=secret",
        "--nocheck",
        "--",
        *TRAIN,
    ]
    status, out, err = done(world, *words)
    assert (status, err) == (0, "base: finished\n") and "step 1" in out
    assert "--spot" in world.calls("queued-resources create")[0]
    listed = done(world, "--list")[1]
    assert "base" in listed and "finished" in listed and "secret" not in listed
    assert done(world, "--name=base", "--follow")[::2] == (0, "base: finished\n")
    assert done(world, "--name=base", "--delete")[::2] == (0, "base: finished; nothing of it is left\n")
    assert done(world, "--name=bas", "--delete")[0] == 2
    (world.folder / "launch.toml").write_text('projekt = "p"\n')
    assert "projekt is no setting of a launch (did you mean 'project'?)" in done(world, *words)[2]
    assert "secret" not in "".join(path.read_text() for path in (world.folder / "jobs").rglob("job.json"))


@pytest.mark.heavy
def test_an_interrupt_leaves_the_job_and_says_so(world):
    """Ctrl-C while it waits; another launch of the name is refused meanwhile and afterwards; --delete ends it."""
    world.answers(state("WAITING_FOR_RESOURCES", times=9999))
    settings = [f"--{name}={value}" for name, value in TPU.items()]
    words = ["--name=base", *settings, "--wheel=ptft_jax-1-py3-none-any.whl", "--poll=0.1", "--nocheck", "--", *TRAIN]
    first = launch(world, *words, stdin=subprocess.DEVNULL)
    assert "WAITING_FOR_RESOURCES" in first.stdout.readline() or "WAITING" in first.stdout.readline()
    status, _, err = done(world, *words)
    assert status == 2 and "another launch drives this job" in err
    time.sleep(0.1)
    os.kill(first.pid, signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "base goes on, and costs: ptft launch --name=base --follow or --delete" in err
    status, _, err = done(world, *words)
    assert status == 2 and "was launched" in err and len(world.calls("create")) == 1
    assert done(world, "--name=base", "--delete")[0] == 0 and len(world.calls("delete")) == 1
    assert record.read("base").state == "deleted"


@pytest.mark.parametrize("answer, deleted", [("y\n", True), ("\n", False)])
def test_ctrl_c_asks_at_a_terminal(answer, deleted, world, monkeypatch, capsys):
    job = world.job(**TPU)
    place = world.place(job)
    job.become(there=True, state="running")
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})(answer))
    assert verb._interrupted(job, place) == 130
    assert bool(world.calls("delete")) == deleted == (record.read("base").state == "deleted")
    assert "delete its machines? [y/N]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--name=a", *(f"--{k}={v}" for k, v in TPU.items()), "--env=NOT_HERE", "--", *TRAIN], "--env=NOT_HERE: is not set here"),
        (["--name=a", *(f"--{k}={v}" for k, v in TPU.items()), "--", *TRAIN, "--config.optimizer.learning_rat=1"], "learning_rate"),
        (["--name=a", *(f"--{k}={v}" for k, v in TPU.items()), "--nocheck", "--", *TRAIN], MISSING),
    ],
)  # fmt: skip
def test_bad_input_of_the_command(words, said, world, monkeypatch):
    if said == MISSING:
        monkeypatch.setenv("PATH", str(world.folder))
    status, _, err = done(world, *words)
    assert status == 2 and said in err and err.count("\n") <= 3 and not world.calls()
    assert not list((world.folder / "jobs").rglob("job.json"))


def test_a_record_is_read_as_it_was_written(world):
    job = world.job(**TPU, copy=(), env={"A": "1"}, retries=3)
    again = record.read("base")
    assert again.request.recorded() == job.request.recorded() and again.state == "prepared"
    assert json.loads((job.folder / "job.json").read_text())["request"]["env"] == ["A"]
    (job.folder / "job.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        record.read("base")
