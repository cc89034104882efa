"""A machine on which gcloud and its like are those of `tests/jobs/fake.py`."""

import json
import sys

from ptft_jax.jobs import places, record, request
from ptft_jax.jobs.failures import Failed
from ptft_jax.jobs.shell import Shell
from tests.processes import ROOT

TOOLS = ("gcloud", "kubectl", "sbatch", "squeue", "sacct", "scancel")
TPU = {"on": "tpu", "topology": "v5e:4x4", "project": "p", "zone": "us-west4-a"}
TRAIN = ("train", "--config=pretrain/shakespeare:tiny", "--workdir=gs://bucket/base")
CREATE, DESCRIBE, DELETE = (f"queued-resources {verb}" for verb in ("create", "describe", "delete"))
NODE, SCP, START, READ = "tpu-vm describe", "tpu-vm scp", "mkdir started", "tail -n +"


def answer(match, out="", err="", status=0, times=1):
    return {"match": match, "out": out, "err": err, "status": status, "times": times}


def state(name, message="", times=1):
    """What `queued-resources describe` says."""
    data = {"failedData": {"error": {"message": message}}} if message else {}
    return answer(DESCRIBE, json.dumps({"name": "base", "state": {"state": name, **data}}), times=times)


def log(*lines, status=None, err=""):
    """What follows the log of host 0: lines, and the status where the command ended, else the connection was lost."""
    end = "" if status is None else f"ptft-job-status {status}\n"
    text = "SSH: Attempting to connect to worker 0...\nptft-job-log\n" + "".join(f"{line}\n" for line in lines) + end
    return answer(
        READ,
        text,
        err or ("" if end else "ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255]."),
        0 if end else 255,
    )


READY = answer(NODE, "READY\n", times=99)


class World:
    """What a test sees: what was said, what was asked of the tools, and the record."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.said, self.pauses = folder, [], 0
        tools = folder / "bin"
        tools.mkdir()
        text = (ROOT / "tests/jobs/fake.py").read_text()
        for name in TOOLS:
            (tools / name).write_text(f"#!{sys.executable} -IS\n{text}")
            (tools / name).chmod(0o755)
        monkeypatch.setenv("FAKE", str(folder))
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        monkeypatch.setenv("PTFT_JOBS", str(folder / "jobs"))
        monkeypatch.chdir(folder)
        (folder / "ptft_jax-1-py3-none-any.whl").write_bytes(b"")

    def answers(self, *answers):
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self, match=""):
        """Words of what was asked, each as one text."""
        path = self.folder / "calls.jsonl"
        made = [" ".join(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in made if match in call]

    def job(self, words=TRAIN, **settings):
        """A job, checked, whose record is there."""
        more = (
            {"wheel": "ptft_jax-1-py3-none-any.whl"}
            if settings.get("on") == "tpu" and not settings.get("image")
            else {}
        )
        asked = request.check(request.Request(name="base", words=tuple(words), **{**more, **settings}))
        job = record.new(asked)
        job.become()
        return job

    def place(self, job):
        def pause():
            self.pauses += 1
            assert self.pauses < 50, self.said

        place = places.place(job, Shell(lambda text: self.said.extend(text.splitlines())), pause)
        place.make()
        return place

    def drive(self, job):
        """Exit status, or what it failed of."""
        try:
            end: int | str = self.place(job).drive()
        except Failed as e:
            end = str(e)
        job.become(state="finished" if end == 0 else "failed")  # as the verb has it
        return end
