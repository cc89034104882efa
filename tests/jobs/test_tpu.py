"""Jobs on Cloud TPU against a gcloud that answers as the real one does, with its failures."""

import shlex

import pytest

from ptft_jax.jobs import places, record, slices
from ptft_jax.jobs.shell import Shell
from tests.jobs.world import (
    CREATE,
    DELETE,
    DESCRIBE,
    NODE,
    READ,
    READY,
    SCP,
    START,
    TPU,
    World,
    answer,
    log,
    state,
)  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_a_job_from_request_to_end(world):
    """Every state on the way; the log is said once; the machines are gone at the end."""
    world.answers(
        *map(state, ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")),
        state("ACTIVE", times=9),
        READY,
        log("step 1", "step 2", status=0),
    )
    job = world.job(**TPU, max_wait=3600.0, env={"TOKEN": "secret"})
    assert world.drive(job) == 0
    order = [
        next(m for m in (CREATE, DESCRIBE, SCP, "tar -xzf", "install.sh", START, READ, DELETE) if m in c)
        for c in world.calls()
    ]
    assert order == [CREATE, *[DESCRIBE] * 4, SCP, "tar -xzf", "install.sh", START, READ, DELETE]
    create = world.calls(CREATE)[0].split()
    assert {
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--valid-until-duration=3600s",
        "--zone=us-west4-a",
    } <= set(create)
    assert [line for line in world.said if line.startswith("step")] == ["step 1", "step 2"]
    assert not any("SSH: Attempting" in line for line in world.said)
    assert "PROVISIONING" in " ".join(world.said) and not job.there
    run = (job.files / "run.sh").read_text()
    assert "ptft train --config=pretrain/shakespeare:tiny --workdir=/gcs/bucket/base --processes=auto\n" in run
    assert "secret" in (job.files / "env.sh").read_text() and "secret" not in (job.folder / "job.json").read_text()
    assert (job.files / "env.sh").stat().st_mode & 0o77 == 0


def test_a_dry_run_prints_what_a_job_does(world):
    world.answers(state("ACTIVE", times=9), READY, log(status=0))
    job = world.job(**TPU, spot=True)
    assert world.drive(job) == 0
    done, said = world.calls(), []
    places.place(job, Shell(said.append, dry=True), lambda: None).show()
    shown = [" ".join(shlex.split(text[2:])) for text in said if text.startswith("$ ")]
    assert shown == done == world.calls()


def test_spot_machines_that_are_taken_away_are_replaced(world):
    """By the queued resource's word, and by the machine's; the same command; bounded."""
    taken = state("SUSPENDED")
    world.answers(
        state("ACTIVE"), log("step 1"), taken,  # the log breaks off: gone
        state("ACTIVE", times=9), answer(NODE, "PREEMPTED\n"), log("step 2"),  # the machine says so itself
        answer(NODE, "READY\n", times=9), log("step 3", status=0),
    )  # fmt: skip
    job = world.job(**TPU, spot=True)
    assert world.drive(job) == 0 and job.attempt == 3
    assert len(world.calls(CREATE)) == len(world.calls(DELETE)) == len(world.calls(START)) == 3
    assert all("--spot" in call for call in world.calls(CREATE)) and len(set(world.calls(START))) == 1
    assert [line for line in world.said if line.startswith("step")] == ["step 1", "step 2", "step 3"]


def test_taking_away_is_borne_so_often(world):
    world.answers(*[state("ACTIVE"), log(), state("SUSPENDED")] * 2)
    job = world.job(**TPU, spot=True, retries=1)
    assert "was taken away" in world.drive(job) and job.attempt == 2 and not job.there
    assert len(world.calls(CREATE)) == len(world.calls(DELETE)) == 2


def test_machines_that_are_taken_away_while_they_are_prepared(world):
    """What looks like a lost connection is none; what fails for another reason is not tried again."""
    lost = answer("install.sh", "", "Connection closed by remote host\n", 255)
    world.answers(state("ACTIVE"), lost, state("SUSPENDED"), state("ACTIVE", times=9), READY, log(status=0))
    job = world.job(**TPU, spot=True)
    assert (
        world.drive(job) == 0 and job.attempt == 2 and len(world.calls("install.sh")) == len(world.calls(CREATE)) == 2
    )
    broken = answer("install.sh", "", "ERROR: no matching distribution for jax\n", 1)
    world.answers(state("ACTIVE", times=9), READY, broken)
    job = world.job(**TPU, spot=True)
    message = world.drive(job)
    assert "installing failed" in message and "no matching distribution" in message and job.there and not job.started


def test_a_command_that_is_asked_to_leave_with_its_machine(world):
    """Status 143 is the framework's after SIGTERM, and others end in whatever way: where the machine goes too, it is no end."""
    world.answers(
        state("ACTIVE"),
        log(status=134),
        state("ACTIVE"),
        state("SUSPENDING"),
        state("ACTIVE", times=9),
        READY,
        log(status=0),
    )
    assert world.drive(world.job(**TPU, spot=True)) == 0
    world.answers(state("ACTIVE", times=9), READY, log(status=143))
    assert world.drive(world.job(**TPU, spot=True)) == 143


def test_a_connection_that_is_lost(world):
    """While copying, and while following: the log goes on after the last line."""
    lost = answer(SCP, "", "kex_exchange_identification: Connection closed by remote host\n", 1)
    world.answers(lost, state("ACTIVE", times=99), READY, log("a", "b"), log("c", status=0))
    assert world.drive(world.job(**TPU)) == 0
    assert len(world.calls(SCP)) == 2 and len(world.calls(CREATE)) == len(world.calls(START)) == 1
    assert ["tail -n +1 " in c or "tail -n +3 " in c for c in world.calls(READ)] == [True, True]
    assert [line for line in world.said if line in "abc"] == ["a", "b", "c"]


def test_a_connection_that_stays_lost_leaves_the_job(world):
    world.answers(state("ACTIVE", times=99), READY, *[log()] * 20)
    job = world.job(**TPU)
    assert "--follow tries again" in world.drive(job)
    assert job.there and job.started and not world.calls(DELETE)
    world.answers(state("ACTIVE", times=99), READY, log("z", status=0))
    again = record.read("base")  # as another process has it
    assert places.place(again, Shell(world.said.append), lambda: None).drive() == 0
    assert len(world.calls(CREATE)) == len(world.calls(SCP)) == 1 and not record.read("base").there


def test_a_command_that_fails_ends_the_job_with_its_status(world):
    """With the end of all hosts' logs: the first to fail is seldom host 0."""
    ends = answer("tail -n 15", "== host-3\nUserError: no such file\n")
    world.answers(state("ACTIVE", times=99), READY, log("Traceback", status=2), ends)
    assert world.drive(world.job(**TPU)) == 2
    assert "UserError: no such file" in world.said and world.calls(DELETE)


REFUSED = {
    "stockout": ('ERROR: There is no more capacity in the zone "us-west4-a"; you can try in another zone', "take another --zone"),
    "quota": ("ERROR: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded. Limit: 0 in zone us-west4-a.", "may not have so many"),
    "permission": ("ERROR: (gcloud) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'", "roles/tpu.admin"),
    "login": ("ERROR: (gcloud) You do not currently have an active account selected. Please run: gcloud auth login", "gcloud auth login"),
    "disabled": ("ERROR: Cloud TPU API has not been used in project 1 before or it is disabled. PERMISSION_DENIED", "services enable tpu"),
    "exists": ("ERROR: (gcloud) ALREADY_EXISTS: Resource 'base' already exists", "another --name"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_request_that_is_refused(kind, world):
    """One message: what, why, what to do, and gcloud's own words; nothing is left, nothing of others is deleted."""
    text, advice = REFUSED[kind]
    world.answers(answer(CREATE, "", text, 1))
    job = world.job(**TPU)
    message = world.drive(job)
    assert f"({kind})" in message and advice in message and text in message
    assert not job.there and not world.calls(DELETE)


def test_a_request_that_fails_in_the_queue(world):
    """Out of quota it ends, and is deleted: what has failed counts towards the quota. Spot without capacity asks again."""
    world.answers(state("WAITING_FOR_RESOURCES"), state("FAILED", "Quota limit 'X' has been exceeded."))
    assert "(quota)" in world.drive(world.job(**TPU)) and world.calls(DELETE)
    world.answers(
        state("FAILED", "There is no more capacity in the zone"), state("ACTIVE", times=9), READY, log(status=0)
    )
    assert world.drive(world.job(**TPU, spot=True)) == 0 and len(world.calls(CREATE)) == 3


def test_a_service_that_does_not_answer(world):
    """Asked again; a request that was made all the same is found."""
    down = "ERROR: (gcloud) UNAVAILABLE: try again\n"
    offline = "ERROR: HTTPSConnectionPool(host='oauth2.googleapis.com'): Max retries exceeded. Please run: gcloud auth login\n"
    unseen = answer(DESCRIBE, "", "ERROR: (gcloud) NOT_FOUND: Resource 'base' was not found", 1)
    world.answers(
        unseen, answer(CREATE, "", down, 1), answer(CREATE, "", "ALREADY_EXISTS", 1), answer(DESCRIBE, "", offline, 1), state("ACTIVE", times=9), READY,
        log(status=0),
    )  # fmt: skip
    assert world.drive(world.job(**TPU)) == 0
    world.answers(answer(DESCRIBE, "", down, 1, times=99))
    job = world.job(**TPU)
    assert "nothing is known" in world.drive(job) and job.there


def test_machines_that_cannot_be_deleted_are_said(world):
    denied = answer(DELETE, "", "PERMISSION_DENIED", 1)
    world.answers(state("ACTIVE", times=9), READY, log(status=0), denied)
    job = world.job(**TPU)
    assert "costs as long as it is there" in world.drive(job) and job.there


# Google, "TPU configurations" and "Plan TPUs in GKE": slice -> chips, hosts, how Cloud TPU is asked for it, machine of GKE.
SLICES = {
    "v5e:1x1": (1, 1, "--accelerator-type=v5litepod-1", "ct5lp-hightpu-1t"),
    "v5e:2x4": (8, 1, "--accelerator-type=v5litepod-8", "ct5lp-hightpu-8t"),
    "v5e:4x4": (16, 4, "--accelerator-type=v5litepod-16", "ct5lp-hightpu-4t"),
    "v5e:16x16": (256, 64, "--accelerator-type=v5litepod-256", "ct5lp-hightpu-4t"),
    "v6e:8x8": (64, 16, "--accelerator-type=v6e-64", "ct6e-standard-4t"),
    "v4:2x2x1": (4, 1, "--type=v4 --topology=2x2x1", "ct4p-hightpu-4t"),
    "v5p:4x4x8": (128, 32, "--type=v5p --topology=4x4x8", "ct5p-hightpu-4t"),
}  # fmt: skip


@pytest.mark.parametrize("name", SLICES)
def test_slices(name):
    one = slices.of(name)
    assert (one.chips, one.hosts, " ".join(one.accelerator()), one.machine) == SLICES[name]


SCRIPTS = {
    "sudo": 'exec "$@"',
    "mountpoint": "exit 0",
    "gcsfuse": "exit 0",
    "uv": 'if [ "$1" = venv ]; then mkdir -p env/bin; printf \'#!/bin/sh\\necho "$TOKEN $*"; ls; exit 3\\n\' > env/bin/ptft; chmod +x env/bin/ptft; fi',
}


def test_the_scripts_do_what_they_say(world):
    """On two hosts that are folders, by bash: copied, unpacked, installed, begun once, followed to the exit status."""
    for name, text in SCRIPTS.items():
        (world.folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (world.folder / "bin" / name).chmod(0o755)
    (world.folder / "mine").mkdir()
    (world.folder / "mine/data.txt").write_text("x")
    for number in "01":
        (world.folder / "workers" / number).mkdir(parents=True)
    twice = [answer(START, "", "Connection reset by peer", 255)]
    world.answers(state("ACTIVE", times=99), READY, *twice)
    words = ("eval", "--run=gs://bucket/a b@best", "--data=mine/data.txt")
    job = world.job(words, **{**TPU, "topology": "v5e:2x4"}, env={"TOKEN": "it's"}, copy=("mine",))
    assert world.drive(job) == 3
    assert "it's eval --run=/gcs/bucket/a b@best --data=mine/data.txt" in world.said and "mine" in world.said
    for number in "01":
        home = world.folder / "workers" / number
        assert (home / "ptft-base/status").read_text() == "3\n" and not (home / "ptft-base.tar.gz").exists()
    assert len(world.calls(START)) == 2
