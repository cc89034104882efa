"""Jobs on GKE, SLURM and Vertex AI: their files, and how they are driven against tools that are fakes."""

import json
import subprocess

import pytest
import yaml

from ptft_jax.jobs import gke, slurm, vertex
from tests.jobs.world import World, answer

jsonschema = pytest.importorskip("jsonschema")
GKE = {"on": "gke", "topology": "v5e:4x4", "image": "some.pkg.dev/p/r/ptft:1"}
TRAIN = ("train", "--config=pretrain/shakespeare:tiny", "--workdir=gs://bucket/base")


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def _of(properties, *needed, **more):
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False, **more}


TEXT, COUNT, TEXTS = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "object", "additionalProperties": {"type": "string"}},
)
# By hand from the API references of JobSet v1alpha2, batch/v1 Job and core/v1 Pod: the fields that may be used, and those that must be there.
CONTAINER = _of(
    {
        "name": TEXT,
        "image": TEXT,
        "command": {"type": "array", "items": TEXT},
        "env": {"type": "array", "items": _of({"name": TEXT, "value": TEXT}, "name", "value")},
        "ports": {"type": "array", "items": _of({"containerPort": COUNT}, "containerPort")},
        "resources": _of({"requests": {"type": "object"}, "limits": {"type": "object"}}, "limits"),
        "volumeMounts": {"type": "array", "items": _of({"name": TEXT, "mountPath": TEXT}, "name", "mountPath")},
    },
    "name",
    "image",
)
VOLUME = _of({"name": TEXT, "csi": _of({"driver": TEXT, "volumeAttributes": TEXTS}, "driver")}, "name")
POD = _of(
    {
        "restartPolicy": {"enum": ["Never", "OnFailure"]},  # a Job's pod may not have Always
        "terminationGracePeriodSeconds": COUNT,
        "nodeSelector": TEXTS,
        "tolerations": {"type": "array", "items": _of(dict.fromkeys(("key", "operator", "value", "effect"), TEXT))},
        "serviceAccountName": TEXT,
        "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
        "volumes": {"type": "array", "items": VOLUME},
    },
    "restartPolicy",
    "containers",
)
TEMPLATE = _of({"metadata": _of({"annotations": TEXTS, "labels": TEXTS}), "spec": POD}, "spec")
CODES = _of(
    {"containerName": TEXT, "operator": {"enum": ["In", "NotIn"]}, "values": {"type": "array", "items": COUNT}},
    "operator",
    "values",
)
POD_RULE = _of({"action": {"enum": ["FailJob", "FailIndex", "Ignore", "Count"]}, "onExitCodes": CODES}, "action")
JOB = _of(
    {
        "parallelism": COUNT,
        "completions": COUNT,
        "completionMode": {"enum": ["Indexed", "NonIndexed"]},
        "backoffLimit": COUNT,
        "podFailurePolicy": _of({"rules": {"type": "array", "items": POD_RULE}}, "rules"),
        "template": TEMPLATE,
    },
    "template",
)
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
REPLICATED = _of({"name": NAME, "replicas": COUNT, "template": _of({"spec": JOB}, "spec")}, "name", "template")
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
RULE = _of(
    {"name": TEXT, "action": {"enum": ACTIONS}, "onJobFailureReasons": {"type": "array", "items": TEXT}},
    "name",
    "action",
)
JOBSET = _of(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": _of({"name": NAME, "namespace": NAME, "labels": TEXTS, "annotations": TEXTS}, "name"),
        "spec": _of(
            {
                "suspend": {"type": "boolean"},
                "failurePolicy": _of({"maxRestarts": COUNT, "rules": {"type": "array", "items": RULE}}),
                "replicatedJobs": {"type": "array", "items": REPLICATED, "minItems": 1},
            },
            "replicatedJobs",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)


def test_a_jobset(world):
    job = world.job(TRAIN, **GKE, spot=True, queue="lq", retries=3, env={"TOKEN": "yes"}, service_account="me")
    world.place(job)
    made = yaml.safe_load((job.files / gke.MANIFEST).read_text())
    jsonschema.validate(made, JOBSET)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lq" and made["spec"]["suspend"] is True
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 3
    spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)  # hosts of 4x4
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][-2:] == ["--workdir=/gcs/bucket/base", "--processes=auto"]
    assert container["volumeMounts"] == [{"name": "bucket-0", "mountPath": "/gcs/bucket"}]
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    assert container["env"] == [{"name": "TOKEN", "value": "yes"}]  # text, not a boolean of YAML
    assert "yes" not in gke.written(job.request, hidden=True).replace("yes:", "")


def _jobset(terminal="", **spec):
    return answer("get jobset", json.dumps({"spec": spec, "status": {"terminalState": terminal, "restarts": 1}}))


def _pods(phase, times=1, **status):
    pod = {"metadata": {"name": "base-slice-0-0", "creationTimestamp": "1"}, "status": {"phase": phase, **status}}
    return answer("get pods", json.dumps({"items": [pod] if phase else []}), times=times)


def test_a_jobset_is_followed(world):
    """Out of its queue, to a node, through a log that breaks off, to its end."""
    waits = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    world.answers(
        _jobset(suspend=True), _pods(""), _jobset(), _pods("Pending", conditions=waits), _jobset(), _pods("Running"),
        answer("logs", "step 1\n"), _jobset("Completed"), _pods("Succeeded"), answer("logs", "step 1\nstep 2\n"),
    )  # fmt: skip
    job = world.job(TRAIN, **GKE, queue="lq")
    assert world.drive(job) == 0 and not job.there
    said = "\n".join(world.said)
    assert "waits in the queue lq" in said and "0/3 nodes are available" in said and "begun again 1 of 10 times" in said
    assert [line for line in world.said if line.startswith("step")] == ["step 1", "step 2"]
    assert len(world.calls("kubectl --namespace=default create")) == len(world.calls("delete jobset base")) == 1


@pytest.mark.parametrize(
    "answers, said",
    [
        ([answer("create", "", 'error: no matches for kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"', 1)], "has no JobSet"),
        ([answer("create", "", 'Error from server (AlreadyExists): jobsets "base" already exists', 1)], "another --name"),
        ([answer("create", "", 'Error from server (Forbidden): jobsets is forbidden: User "me" cannot create', 1)], "(permission)"),
        (
            [_jobset(), _pods("Pending", containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}}])],
            "ImagePullBackOff: no such",
        ),
    ],
)  # fmt: skip
def test_a_jobset_that_cannot_be(answers, said, world):
    world.answers(*answers)
    job = world.job(TRAIN, **GKE)
    assert said in world.drive(job) and not job.there


def test_a_script_of_slurm(world):
    """bash takes it; one process per host, which sees all of its GPUs; what has saved goes back into the queue, so often."""
    words = ("train", "--config=pretrain/text:my file", "--workdir=/shared/base")
    job = world.job(
        words, on="slurm", nodes=2, gpus_per_node=4, extra=("--partition=gpu",), retries=2, env={"A": "b c"}
    )
    world.place(job)
    path = job.files / slurm.SCRIPT
    text = path.read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--requeue", "--partition=gpu"} <= set(options)
    srun = 'printf "%s\\n" "$*" "$JAX_LOCAL_DEVICE_IDS" "$A"; exit 143'
    for name, does in {"srun": srun, "scontrol": 'echo "scontrol $*"'}.items():
        (world.folder / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (world.folder / "bin" / name).chmod(0o755)

    def run(restarts):
        command = ["bash", "-c", f"export SLURM_JOB_ID=7 SLURM_RESTART_COUNT={restarts}; . {path}"]
        return subprocess.run(command, capture_output=True, encoding="utf-8")

    first, last = run(1), run(2)
    assert (
        "train '--config=pretrain/text:my file'".replace("'", "") in first.stdout
        and "--processes=auto\n0,1,2,3\nb c" in first.stdout
    )
    assert first.returncode == 0 and "scontrol requeue 7" in first.stdout
    assert last.returncode == 143 and "scontrol" not in last.stdout


def test_a_job_of_slurm(world):
    job = world.job(("train", "--config=c", "--workdir=/shared/base"), on="slurm")
    world.answers(
        answer("sbatch", "41;cluster\n"), answer("squeue", "PENDING\n"), answer("squeue", "RUNNING\n"),
        answer("squeue", "", "slurm_load_jobs error: Invalid job id specified", 1), answer("sacct", "CANCELLED by 0\n"),
    )  # fmt: skip
    assert world.drive(job) == 1 and job.handle == "41" and not job.there
    assert [line for line in world.said if line.startswith("job 41: ")] == [
        f"job 41: {s}" for s in ("PENDING", "RUNNING", "CANCELLED")
    ]
    world.answers(answer("sbatch", "", "sbatch: error: invalid partition specified: gpu", 1))
    assert "invalid partition" in world.drive(world.job(("train", "--workdir=/shared/base"), on="slurm"))


VERTEX = {
    "on": "vertex",
    "topology": "v5e:2x4",
    "project": "p",
    "region": "us-west4",
    "image": "some.pkg.dev/p/r/ptft:1",
}


def test_a_job_of_vertex(world):
    """Preempted once: made again; the second succeeds."""
    handles = [f"projects/1/locations/us-west4/customJobs/{n}" for n in (1, 2)]
    taken = {"state": "JOB_STATE_FAILED", "error": {"message": "The replica workerpool0-0 was preempted."}}
    world.answers(
        answer("create", f"{handles[0]}\n"), answer("describe", json.dumps({"state": "JOB_STATE_PENDING"})), answer("describe", json.dumps(taken)),
        answer("create", f"{handles[1]}\n"), answer("describe", json.dumps({"state": "JOB_STATE_SUCCEEDED"})),
    )  # fmt: skip
    job = world.job(TRAIN, **VERTEX, spot=True)
    assert world.drive(job) == 0 and job.handle == handles[1] and job.attempt == 2
    made = yaml.safe_load((job.files / vertex.SPEC).read_text())
    [pool] = made["workerPoolSpecs"]
    assert (
        pool["machineSpec"] == {"machineType": "ct5lp-hightpu-8t", "tpuTopology": "2x4"} and pool["replicaCount"] == 1
    )
    assert pool["containerSpec"]["args"][-1] == "--workdir=/gcs/bucket/base" and made["scheduling"] == {
        "strategy": "SPOT"
    }
    world.answers(
        answer(
            "create",
            "",
            "ERROR: (gcloud.ai.custom-jobs.create) RESOURCE_EXHAUSTED: The following quota metrics exceed",
            1,
        )
    )
    assert "(quota)" in world.drive(world.job(TRAIN, **VERTEX))
