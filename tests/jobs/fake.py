"""gcloud, kubectl, sbatch and their like as tests have them: flags are checked against those of the real ones, answers are scripted.

$FAKE holds `answers.json`: [{"match": words, "out": ..., "err": ..., "status": ..., "times": N}, ...], of which the first that fits and is not
used up answers, and writes what is in its "write"; `calls.jsonl`: what was asked; `workers/N`, homes of hosts in which commands of `tpu-vm ssh`
that no answer fits are run; and `nodes`, where that is there, in which jobs of sbatch are run.
"""

import json
import os
import sys

FAKE = os.environ["FAKE"]
# From `gcloud ... --help` of version 5xx, `kubectl ... --help` and `man sbatch`: command -> flags that the launcher may use.
COMMON = {"--project", "--zone", "--quiet", "--format"}
FLAGS = {
    "gcloud compute tpus queued-resources create": COMMON | {
        "--accelerator-type", "--type", "--topology", "--runtime-version", "--node-id", "--async", "--spot", "--valid-until-duration",
        "--service-account", "--network",
    },
    "gcloud compute tpus queued-resources describe": COMMON,
    "gcloud compute tpus queued-resources delete": COMMON | {"--force", "--async"},
    "gcloud compute tpus tpu-vm describe": COMMON,
    "gcloud compute tpus tpu-vm scp": COMMON | {"--worker", "--recurse"},
    "gcloud compute tpus tpu-vm ssh": COMMON | {"--worker", "--command", "--ssh-flag"},
    "gcloud ai custom-jobs create": {"--project", "--region", "--quiet", "--format", "--display-name", "--config"},
    "gcloud ai custom-jobs describe": {"--project", "--region", "--quiet", "--format"},
    "gcloud ai custom-jobs stream-logs": {"--project", "--region", "--quiet"},
    "gcloud ai custom-jobs cancel": {"--project", "--region", "--quiet"},
    "kubectl create": {"--namespace", "--context", "--filename"},
    "kubectl get": {"--namespace", "--context", "--selector", "--output"},
    "kubectl logs": {"--namespace", "--context", "--container", "--follow"},
    "kubectl delete": {"--namespace", "--context", "--ignore-not-found", "--wait"},
    "sbatch": {"--parsable"},
    "squeue": {"--noheader", "--states", "--format", "--jobs"},
    "sacct": {"--noheader", "--allocations", "--parsable2", "--format", "--jobs"},
    "scancel": set(),
}  # fmt: skip
NEEDED = {
    "gcloud compute tpus queued-resources create": {"--runtime-version", "--node-id", "--zone", "--project"},
    "gcloud ai custom-jobs create": {"--display-name", "--region", "--config"},
}


def checked(words):
    plain = " ".join(word for word in words if not word.startswith("-"))
    command = next((one for one in FLAGS if f"{plain} ".startswith(f"{one} ")), None)
    if command is None:
        return f"Invalid choice: {plain}"
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    if unknown := given - FLAGS[command]:
        return f"unrecognized arguments: {unknown}"
    if missing := NEEDED.get(command, set()) - given:
        return f"argument {missing}: Must be specified."
    return ""


def scripted(text):
    path = f"{FAKE}/answers.json"
    if not os.path.exists(path):
        return None
    with open(path) as f:
        answers = json.load(f)
    for answer in answers:
        if answer["match"] in text and answer.get("times", 1) > 0:
            answer["times"] = answer.get("times", 1) - 1
            with open(path, "w") as f:
                json.dump(answers, f)
            return answer
    return None


def on_workers(words):
    """Of `tpu-vm scp` and `tpu-vm ssh`: copies to, and runs in, the homes of hosts."""
    import pathlib
    import subprocess

    flags = dict(word.lstrip("-").partition("=")[::2] for word in words if word.startswith("--"))
    homes = sorted(pathlib.Path(FAKE, "workers").iterdir())
    status = 0
    for home in homes if flags["worker"] == "all" else [homes[int(flags["worker"])]]:
        if "scp" in words:
            source, target = [word for word in words[words.index("scp") + 1 :] if not word.startswith("-")]
            (home / target.partition(":")[2]).write_bytes(pathlib.Path(source).read_bytes())
            continue
        env = {**os.environ, "HOME": str(home)}
        status = subprocess.run(["bash", "-c", flags["command"]], cwd=home, env=env).returncode or status
    return status


def on_nodes(words):
    """A cluster of one machine: its jobs are run at once, and again where they ask for it."""
    import pathlib
    import signal
    import subprocess

    number = words[-1].rpartition("=")[2] if words[0] != "sbatch" else str(len(os.listdir(f"{FAKE}/nodes")) + 1)
    node = pathlib.Path(FAKE, "nodes", number)
    if words[0] == "sbatch":
        node.mkdir()
        script = pathlib.Path(words[-1])
        [log] = [line.partition("=")[2] for line in script.read_text().splitlines() if "--output=" in line]
        again = f"rm -f {node}/requeue; bash {script} >> {log} 2>&1; echo $? > {node}/status"
        loop = f"n=0; while :; do export SLURM_JOB_ID={number} SLURM_RESTART_COUNT=$n; {again}; [ -e {node}/requeue ] || break; n=$((n+1)); done"
        began = subprocess.Popen(
            ["bash", "-c", f"{loop}; touch {node}/over"], start_new_session=True, stdout=subprocess.DEVNULL
        )
        (node / "pid").write_text(str(began.pid))
        print(number)
    elif words[0] == "scancel":
        os.killpg(int((node / "pid").read_text()), signal.SIGTERM)
        (node / "over").touch()
    elif not (node / "over").exists():
        print("RUNNING")
    else:
        status = (node / "status").read_text().strip() if (node / "status").exists() else "-"
        print({"0": "COMPLETED", "-": "CANCELLED"}.get(status, "FAILED"))


def main():
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    with open(f"{FAKE}/calls.jsonl", "a") as f:
        f.write(json.dumps(words) + "\n")
    if problem := checked(words):
        print(f"ERROR: {problem}", file=sys.stderr)
        return 2
    if (answer := scripted(" ".join(words))) is not None:
        for path, text in answer.get("write", {}).items():
            with open(path, "w") as f:
                f.write(text)
        print(answer.get("out", ""), end="")
        print(answer.get("err", ""), end="", file=sys.stderr)
        return answer.get("status", 0)
    if "tpu-vm" in words and ("ssh" in words or "scp" in words) and os.path.exists(f"{FAKE}/workers"):
        return on_workers(words)
    if words[0] in ("sbatch", "squeue", "scancel") and os.path.isdir(f"{FAKE}/nodes"):
        on_nodes(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
