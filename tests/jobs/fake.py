"""gcloud, kubectl, sbatch and their like as tests have them: flags are checked against those of the real ones, answers are scripted.

$FAKE holds `answers.json`: [{"match": words, "out": ..., "err": ..., "status": ..., "times": N}, ...], of which the first that fits and is not
used up answers; `calls.jsonl`: what was asked; and `workers/N`, homes of hosts in which commands of `tpu-vm ssh` that no answer fits are run.
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


def main():
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    with open(f"{FAKE}/calls.jsonl", "a") as f:
        f.write(json.dumps(words) + "\n")
    if problem := checked(words):
        print(f"ERROR: {problem}", file=sys.stderr)
        return 2
    if (answer := scripted(" ".join(words))) is not None:
        print(answer.get("out", ""), end="")
        print(answer.get("err", ""), end="", file=sys.stderr)
        return answer.get("status", 0)
    if "tpu-vm" in words and ("ssh" in words or "scp" in words) and os.path.exists(f"{FAKE}/workers"):
        return on_workers(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
