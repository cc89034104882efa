"""Jobs on GKE: a JobSet, by kubectl. What begins it again where nodes are taken away is JobSet's controller."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ptft_jax.jobs.failures import UNANSWERED, Failed, kind, told
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.request import MOUNT, Request
from ptft_jax.jobs.shell import Done, Shell

MANIFEST = "jobset.yaml"
_TRIES = 6
# Reasons of a container that waits, which do not pass.
_STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


def manifest(request: Request, hidden: bool = False) -> dict[str, Any]:
    """The JobSet (jobset.x-k8s.io/v1alpha2): one Job, with a pod on each host of the slice. `hidden`: without what variables hold."""
    where = request.slice
    container: dict[str, Any] = {
        "name": "ptft",
        "image": request.image,
        "command": ["ptft", *request.words],
        "env": [{"name": name, "value": "..." if hidden else value} for name, value in request.env.items()],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],  # between hosts of a slice
        "resources": {
            "requests": {"google.com/tpu": where.per_host},
            "limits": {"google.com/tpu": where.per_host},
        },
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,  # to save in
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": where.label,
            "cloud.google.com/gke-tpu-topology": where.shape,
        },
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
    }
    annotations = {}
    if request.spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"].append(
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    if request.service_account:
        pod["serviceAccountName"] = request.service_account
    if request.buckets:
        annotations["gke-gcsfuse/volumes"] = "true"
        options = "implicit-dirs,rename-dir-limit:200000,metadata-cache:ttl-secs:0"
        pod["volumes"] = [
            {
                "name": f"bucket-{n}",
                "csi": {
                    "driver": "gcsfuse.csi.storage.gke.io",
                    "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
                },
            }
            for n, bucket in enumerate(request.buckets)
        ]
        container["volumeMounts"] = [
            {"name": f"bucket-{n}", "mountPath": f"{MOUNT}/{bucket}"} for n, bucket in enumerate(request.buckets)
        ]
    bad_input = {"containerName": "ptft", "operator": "In", "values": [2]}  # which no new pods make better
    labels = {"kueue.x-k8s.io/queue-name": request.queue} if request.queue else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": request.name,
            "namespace": request.namespace or "default",
            "labels": {"app.kubernetes.io/managed-by": "ptft", **labels},
            # A slice is a node pool: all pods of the job in one, and no others there.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "suspend": bool(request.queue),  # Kueue begins it
            "failurePolicy": {
                "maxRestarts": request.retries,
                "rules": [{"name": "badinput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [
                {
                    "name": "slice",
                    "replicas": 1,
                    "template": {
                        "spec": {
                            "parallelism": where.hosts,
                            "completions": where.hosts,
                            "completionMode": "Indexed",
                            "backoffLimit": 0,  # a pod that fails fails the job, and JobSet begins all again
                            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": bad_input}]},
                            "template": {"metadata": {"annotations": annotations}, "spec": pod},
                        }
                    },
                }
            ],
        },
    }


def written(request: Request, hidden: bool = False) -> str:
    """The manifest as YAML."""
    import yaml

    return yaml.safe_dump(manifest(request, hidden), sort_keys=False, allow_unicode=True, width=120)


class GKE:
    """Drives a job, from wherever it is."""

    def __init__(self, job: Job, shell: Shell, pause: Callable[[], None]):
        self._job, self._shell, self._pause = job, shell, pause
        self._request = job.request
        shell.needs("kubectl")

    def _kubectl(self, *words: str) -> list[str]:
        r = self._request
        context = [f"--context={r.context}"] if r.context else []
        return ["kubectl", *context, f"--namespace={r.namespace or 'default'}", *words]

    def _create(self) -> list[str]:
        # create, not apply: a JobSet of this name that is somebody else's is not changed.
        return self._kubectl("create", f"--filename={self._job.files / MANIFEST}")

    def _delete(self) -> list[str]:
        return self._kubectl("delete", "jobset", self._request.name, "--ignore-not-found", "--wait=true")

    def _get(self) -> list[str]:
        return self._kubectl("get", "jobset", self._request.name, "--output=json")

    def _pods(self) -> list[str]:
        labels = f"jobset.sigs.k8s.io/jobset-name={self._request.name},batch.kubernetes.io/job-completion-index=0"
        return self._kubectl("get", "pods", f"--selector={labels}", "--output=json")

    def _logs(self, pod: str) -> list[str]:
        return self._kubectl("logs", pod, "--container=ptft", "--follow")

    def show(self) -> None:
        """Prints every command and file, with a dry shell."""
        self._shell.say(f"# {self._job.files / MANIFEST}\n{written(self._request, hidden=True)}")
        for words in (self._create(), self._get(), self._pods(), self._logs("POD")):
            self._shell.run(words)
        if not self._request.keep:
            self._shell.say("# at the end:")
            self._shell.run(self._delete())

    def make(self) -> None:
        """Makes the files."""
        self._job.files.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._job.files / MANIFEST
        path.touch(mode=0o600)
        path.write_text(written(self._request), encoding="utf-8")

    def drive(self) -> int:
        """0 where the job has completed, else 1; it is deleted then (unless it is kept). Raises Failed."""
        job = self._job
        if not job.there:
            job.become(state="waiting", there=True)
            done = self._tried(self._create())
            if done.status:
                job.become(there=False)
                raise Failed(told(f"{self._request.name} could not be created", done.said))
        status = self._follow()
        if not self._request.keep:
            self.delete()
        return status

    def delete(self) -> None:
        """Deletes the JobSet and its pods. Raises Failed."""
        done = self._tried(self._delete())
        if done.status:
            raise Failed(told(f"{self._request.name} could not be deleted", done.said))
        self._job.become(there=False)

    def _tried(self, words: list[str]) -> Done:
        for _ in range(_TRIES - 1):
            done = self._shell.run(words)
            if not done.status or kind(done.said).name not in UNANSWERED:
                return done
            self._pause()
        return self._shell.run(words)

    def _read(self, words: list[str]) -> Any:
        done = self._tried(words)
        if done.status:
            raise Failed(told(f"nothing is known of {self._request.name}", done.said))
        try:
            return json.loads(done.out)
        except ValueError as e:
            raise Failed(f"kubectl says what is no JSON: {done.out[:200]}") from e

    def _ended(self, found: Any) -> str:
        """ "Completed" or "Failed"; "" while it goes on."""
        status = found.get("status", {})
        true = [c["type"] for c in status.get("conditions", []) if c.get("status") == "True"]
        return status.get("terminalState") or next((one for one in ("Completed", "Failed") if one in true), "")

    def _follow(self) -> int:
        seen: dict[str, int] = {}  # lines of the log of a pod that were said
        last = ""
        while True:
            found = self._read(self._get())
            pods = sorted(
                self._read(self._pods()).get("items", []), key=lambda p: p["metadata"].get("creationTimestamp", "")
            )
            pod = pods[-1] if pods else None
            phase = pod["status"].get("phase", "") if pod else ""
            if pod and phase in ("Running", "Succeeded", "Failed"):
                self._say_log(pod["metadata"]["name"], seen)
            if end := self._ended(found):
                self._shell.say(f"{self._request.name}: {end}")
                return int(end != "Completed")
            now = self._said(found, pod, phase)
            if now != last:
                self._shell.say(f"{self._request.name}: {now}")
            last = now
            if phase == "Running" and self._job.state != "running":
                self._job.become(state="running")
            self._pause()

    def _said(self, found: Any, pod: Any, phase: str) -> str:
        """Where the job is. Raises Failed where it cannot go on by itself."""
        if found.get("spec", {}).get("suspend"):
            return f"waits in the queue {self._request.queue}"
        restarts = found.get("status", {}).get("restarts", 0)
        again = f" (begun again {restarts} of {self._request.retries} times)" if restarts else ""
        if pod is None:
            return f"waits for its pods{again}"
        for one in pod["status"].get("containerStatuses", []):
            waiting = one.get("state", {}).get("waiting", {})
            if waiting.get("reason") in _STUCK:
                self.delete()
                raise Failed(f"--image={self._request.image}: {waiting['reason']}: {waiting.get('message', '')}")
        for one in pod["status"].get("conditions", []):
            if one.get("type") == "PodScheduled" and one.get("status") == "False":
                return f"waits for a node{again}: {one.get('message', '')}"
        return f"{phase or 'is created'}{again}"

    def _say_log(self, pod: str, seen: dict[str, int]) -> None:
        number, said = 0, seen.get(pod, 0)

        def line(text: str) -> None:
            nonlocal number
            number += 1
            if number > said:
                self._shell.say(text)
                seen[pod] = number

        self._shell.follow(self._logs(pod), line)
