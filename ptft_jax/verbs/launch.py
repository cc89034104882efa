"""Runs a command of ptft as a job elsewhere: on Cloud TPU, GKE, SLURM or Vertex AI, by the tools of those who own them (docs/launching.md).

python -m ptft_jax.verbs.launch --name=base --on=tpu --topology=v5e:4x4 --project=PROJECT --zone=us-west4-a --spot --dry_run \\
  -- train --config=pretrain/shakespeare:small --workdir=gs://BUCKET/base

A job goes on where this process ends: --follow takes it up again, --delete ends it, --list shows all.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive
from ptft_jax.errors import UserError
from ptft_jax.jobs import bundle, places, record, request
from ptft_jax.jobs.failures import Failed
from ptft_jax.jobs.shell import Shell
from ptft_jax.verbs.command import define_number, launch, say
from ptft_jax.verbs.output import printed

WORDS = "command"
_TEXTS = {
    "on": "Where: tpu (Cloud TPU), gke, slurm or vertex.",
    "topology": "The slice of TPUs, as `ptft plan` names it: v5e:4x4.",
    "project": "Google Cloud project.",
    "zone": "Zone of --on=tpu, such as us-west4-a.",
    "region": "Region of --on=vertex, such as us-west4.",
    "runtime": "Software of machines of --on=tpu; '' = that of the TPU's version for JAX.",
    "image": "Container that has ptft_jax, instead of what is installed (Containerfile builds one).",
    "wheel": "With --on=tpu: what is installed; '' = a wheel that is built of this checkout.",
    "extras": "With --on=tpu: extras of the package beside tpu and gcs, joined by commas, such as hf,wandb.",
    "queue": "With --on=gke: Kueue's LocalQueue.",
    "namespace": "With --on=gke: '' = default.",
    "context": "With --on=gke: cluster, by kubectl's name; '' = the present one.",
    "service_account": "Whom the job is, which has to be allowed to use its buckets; '' = as the place has it.",
}
_LISTS = {
    "pin": "With --on=tpu: version of a package on the machines, NAME==VERSION. May be given more than once.",
    "buckets": "With --on=tpu and --on=gke: bucket that is mounted beside those of the command's paths. May be given more than once.",
    "copy": "With --on=tpu: file or folder below this one that the command needs. May be given more than once.",
    "extra": "Flag for what creates the job (gcloud ... create, sbatch), such as --extra=--network=mine. May be given more than once.",
}


def define() -> None:
    flags.DEFINE_string("name", "", "Of the job, and of its machines.")
    flags.DEFINE_multi_string(WORDS, [], "The command, one word each; what follows -- is the same.")
    for name, meaning in _TEXTS.items():
        flags.DEFINE_string(name, "", meaning)
    for name, meaning in _LISTS.items():
        flags.DEFINE_multi_string(name, [], meaning)
    flags.DEFINE_multi_string(
        "env", [], "Variable of the command: NAME=VALUE, or NAME as it is here. Its value is not recorded."
    )
    flags.DEFINE_bool("spot", False, "Machines that may be taken away; the job is then begun again, and goes on.")
    define_number("retries", 10, natural(10, ""), "How often it is begun again.")
    define_number(
        "max_wait", 0.0, natural(0.0, ""), "With --on=tpu: seconds to wait for machines at most; 0 = any time."
    )
    define_number("nodes", 1, positive(1, ""), "Hosts of --on=slurm.")
    define_number("gpus_per_node", 0, natural(0, ""), "GPUs of each host of --on=slurm.")
    flags.DEFINE_bool("keep", False, "Leave the machines when the command has ended. They cost until --delete.")
    flags.DEFINE_string(
        "defaults",
        "",
        "TOML file with what all launches share, by names of these flags; '' = launch.toml, where it is.",
    )
    flags.DEFINE_bool("check", True, "Read the command's config here first.")
    flags.DEFINE_bool("dry_run", False, "Print every command and file, and do nothing.")
    flags.DEFINE_bool("follow", False, "Take up the job --name where it is.")
    flags.DEFINE_bool("delete", False, "End the job --name, and delete its machines.")
    flags.DEFINE_bool("list", False, "Show the jobs that were launched from here, as far as is known here.")
    define_number("poll", 20.0, natural(20.0, ""), "Seconds between two looks at a job.")


def main() -> int:
    args = flags.FLAGS
    asked = [name for name in ("follow", "delete", "list") if args[name].value]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]}: expected one of them")
    if asked and args.command:
        raise UserError(f"--{asked[0]}: takes no command")
    if args.list:
        printed(_table())
        return 0

    def pause() -> None:
        time.sleep(args.poll)

    if asked:
        request.check_name(args.name)
        return (_follow if args.follow else _delete)(args.name, pause)
    wanted = _request()
    bundle.check(wanted)
    if args.check:
        _check_config(wanted.words)
    if args.dry_run:
        shell = Shell(printed, dry=True)
        places.place(record.Job(wanted, record.root() / wanted.name), shell, pause).show()
        return 0
    places.place(record.Job(wanted, record.root() / wanted.name), Shell(printed), pause)  # its tool is there
    with record.held(wanted.name):
        job = record.new(wanted)
        place = places.place(job, Shell(printed), pause)
        job.become()
        return _driven(job, place, make=True)


def _request() -> request.Request:
    """What the flags and the file of defaults ask for, checked. Raises UserError."""
    args = flags.FLAGS
    names = [*_TEXTS, *_LISTS, "spot", "retries", "max_wait", "nodes", "gpus_per_node", "keep"]
    path = pathlib.Path(args.defaults or "launch.toml")
    if args.defaults and not path.is_file():
        raise UserError(f"--defaults={args.defaults}: is no file")
    shared = request.read_defaults(path, names) if path.is_file() else {}
    found: dict[str, Any] = {}
    for name in names:
        value, default = args[name].value, args[name].default
        if not args[name].present and name in shared:
            value = shared[name]
            kind = list if name in _LISTS else (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise UserError(
                    f"{path}: {name} = {value!r}: expected a value as of --{name}, whose default is {default!r}"
                )
        found[name] = tuple(value) if name in _LISTS else value
    if not found["on"]:
        raise UserError("--on is missing: tpu, gke, slurm or vertex")
    found["name"], found["words"] = args.name, tuple(args.command)
    return request.check(request.Request(**found, env=request.variables(args.env)))


def _check_config(words: tuple[str, ...]) -> None:
    """Raises UserError where the config of a command cannot be read here: as it could not there."""
    given = [word for word in words if word.lstrip("-").partition("=")[0].split(".")[0] == "config" and "=" in word]
    if not any(word.lstrip("-").startswith("config=") for word in given):
        return
    done = subprocess.run(
        [sys.executable, "-m", "ptft_jax.verbs.config", *given],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise UserError(f"-- {words[0]}: {done.stderr.strip().removeprefix('error: ')}")


def _driven(job: record.Job, place: places.Place, make: bool = False) -> int:
    """Drives a job to its end; exit status, and what is recorded of it."""
    try:
        status, problem = places.carried(job, place, make)
    except KeyboardInterrupt:
        return _interrupted(job, place)
    if problem:
        say(f"error: {problem}")
        return status
    say(f"{job.request.name}: {'finished' if not status else f'ended with status {status}'}")
    return status


def _interrupted(job: record.Job, place: places.Place) -> int:
    """Asks what to do with a job that Ctrl-C was typed at; exit status."""
    name = job.request.name
    if job.there and sys.stdin is not None and sys.stdin.isatty():
        say(f"\nEnd the job {name}, and delete its machines? [y/N] ")
        try:
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            answer = ""
        if answer.strip().lower() in ("y", "yes"):
            return _deleted(job, place) or 130
    if job.there:
        say(f"{name} goes on, and costs: ptft launch --name={name} --follow or --delete")
    else:
        job.become(state="deleted")
    return 130


def _follow(name: str, pause: Callable[[], None]) -> int:
    with record.held(record.read(name).request.name):
        job = record.read(name)
        if not job.there and job.state in record.ENDED:
            say(f"{name}: {job.state}{f': {job.message}' if job.message else ''}")
            return int(job.state != "finished") if job.status is None else job.status
        if job.state == "prepared":  # what variables hold is not recorded, and may not be in its files yet
            raise UserError(f"--follow: {name} was not begun: launch it again")
        return _driven(job, places.place(job, Shell(printed), pause))


def _delete(name: str, pause: Callable[[], None]) -> int:
    with record.held(record.read(name).request.name):
        job = record.read(name)
        if not job.goes_on:
            say(f"{name}: {job.state}; nothing of it is left")
            return 0
        return _deleted(job, places.place(job, Shell(printed), pause))


def _deleted(job: record.Job, place: places.Place) -> int:
    try:
        if job.there:
            place.delete()
    except Failed as e:
        say(f"error: {e}")
        return 1
    job.become(state="deleted")
    say(f"{job.request.name}: deleted")
    return 0


def _table() -> str:
    rows = [("name", "on", "topology", "state", "attempt", "machines", "created", "command")]
    for job in record.listed():
        asked = job.request
        left = "may be there" if job.there else ""
        size = asked.topology or f"{asked.nodes} node(s)"
        command = " ".join(asked.words)
        rows.append((asked.name, asked.on, size, job.state, str(job.attempt), left, job.created, command))
    if len(rows) == 1:
        return f"no jobs were launched from here ({record.root()})"
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    launch(define, main)
