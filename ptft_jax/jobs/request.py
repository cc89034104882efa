"""What is asked for: a command of ptft, and where it is to run. Checked before anything is created."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.jobs import slices

PLACES = ("tpu", "gke", "slurm", "vertex")
# Verbs that compute; others are for who looks at what they left.
VERBS = (
    "train", "eval", "data", "behavior", "lm-eval", "generate", "index", "feedback", "export", "combine", "sweep",
    "experiment", "node", "bench", "doctor",
)  # fmt: skip
MOUNT = "/gcs"  # where buckets are, as Vertex AI has them
_WRITTEN = ("workdir", "out", "task")
_RUNS = (*_WRITTEN, "run", "reuse", "index", "config.init.from", "config.init.from_")


@dataclasses.dataclass(frozen=True)
class Request:
    """A job.

    Attributes:
      name: of the job, its machines and its record.
      on: one of PLACES.
      words: of the command, without `ptft`; what was in a bucket lies below MOUNT.
      buckets: that are mounted; those of the command's paths are added.
      env: variables of the process. Not recorded.
      topology: slice of TPUs, as `ptft plan` names it; of SLURM "".
      retries: how often it is begun again whose machines were taken away.
      max_wait: seconds until a request for machines is given up; 0 = never.
      nodes, gpus_per_node: of SLURM.
      extra: words for what creates the job: `queued-resources create`, `sbatch`, `custom-jobs create`.
    """

    name: str
    on: str
    words: tuple[str, ...]
    buckets: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    topology: str = ""
    project: str = ""
    zone: str = ""
    region: str = ""
    spot: bool = False
    runtime: str = ""
    image: str = ""
    wheel: str = ""
    extras: str = ""
    pin: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()
    retries: int = 10
    max_wait: float = 0.0
    keep: bool = False
    queue: str = ""
    namespace: str = ""
    context: str = ""
    service_account: str = ""
    nodes: int = 1
    gpus_per_node: int = 0
    extra: tuple[str, ...] = ()

    @property
    def slice(self) -> slices.Slice:
        return slices.of(self.topology)

    @property
    def hosts(self) -> int:
        return self.nodes if self.on == "slurm" else self.slice.hosts

    def recorded(self) -> dict[str, Any]:
        """As JSON, without what variables hold."""
        return {**dataclasses.asdict(self), "env": sorted(self.env)}

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Request:
        """From `recorded`."""
        known = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items() if k in known}
        values["env"] = dict.fromkeys(recorded["env"], "")
        return cls(**values)


def read_defaults(path: pathlib.Path, known: Sequence[str]) -> dict[str, Any]:
    """Settings of a TOML file, by names of flags. Raises UserError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: is no TOML: {e}") from e
    for name, value in found.items():
        if name not in known:
            raise UserError(f"{path}: {name} is no setting of a launch{nearest(name, known)}")
        if isinstance(value, dict):
            raise UserError(f"{path}: {name}: expected a value, not a table")
    return found


def check(request: Request) -> Request:
    """The request with its command completed. Raises UserError, naming the flag, for what cannot be."""
    if request.on not in PLACES:
        raise UserError(f"--on={request.on}: expected {', '.join(PLACES)}{nearest(request.on, PLACES)}")
    check_name(request.name)
    _check_words(request)
    for word in request.extra:
        if not word.startswith("-"):
            raise UserError(f"--extra={word}: expected a flag, such as --extra=--network=mine")
    for bucket in request.buckets:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
            raise UserError(f"--buckets={bucket}: expected the name of a bucket, without gs://")
    if request.on == "slurm":
        _refuse(request, ("topology", "zone", "project", "region", "spot", "runtime", "queue", "namespace", "context"))
        _refuse(request, ("wheel", "copy", "extras", "pin", "buckets", "service_account", "max_wait", "keep"))
    else:
        _refuse(request, ("gpus_per_node",), {"nodes": 1})
        if not request.topology:
            raise UserError(
                "--topology is missing: the slice of TPUs, as `ptft plan` names it, e.g. --topology=v5e:4x4"
            )
        _ = request.slice
        {"tpu": _check_tpu, "gke": _check_gke, "vertex": _check_vertex}[request.on](request)
    return _completed(request)


def check_name(name: str) -> None:
    """Raises UserError for a name that machines and pods cannot have."""
    if not name:
        raise UserError("--name is missing: of the job, e.g. --name=base")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise UserError(f"--name={name}: expected 40 lower-case letters, digits and hyphens at most, a letter first")


def _refuse(request: Request, names: Sequence[str], more: Mapping[str, Any] | None = None) -> None:
    for name, default in {**dict.fromkeys(names), **(more or {})}.items():
        value = getattr(request, name)
        if value and value != default:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise UserError(f"--{name}={shown}: has no effect with --on={request.on}")


def _check_words(request: Request) -> None:
    if not request.words:
        raise UserError(
            "the command is missing, after --: ptft launch --on=tpu ... -- train --config=... --workdir=..."
        )
    verb = request.words[0]
    if verb not in VERBS:
        raise UserError(f"-- {verb}: expected a verb that computes: {', '.join(VERBS)}{nearest(verb, VERBS)}")
    if verb == "train" and not any(word.lstrip("-").partition("=")[0] == "workdir" for word in request.words):
        raise UserError("-- train: --workdir is missing: where the run is kept, and goes on where it is begun again")
    if request.topology and request.on != "slurm" and request.hosts > 1 and verb != "train":
        raise UserError(
            f"--topology={request.topology}: has {request.hosts} hosts, and {verb} runs on one: a slice of one host, such as "
            f"{request.slice.version}:{'2x4' if 'x1' not in request.topology else '2x2x1'}"
        )
    if request.on == "slurm" and request.nodes > 1 and verb != "train":
        raise UserError(f"--nodes={request.nodes}: {verb} runs on one")


def _check_tpu(request: Request) -> None:
    _refuse(request, ("region", "queue", "namespace", "context"))
    request.slice.accelerator()
    _needs(request, "project", "gcloud projects list")
    _needs(request, "zone", "gcloud compute tpus locations list; docs: https://cloud.google.com/tpu/docs/regions-zones")
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", request.zone):
        raise UserError(f"--zone={request.zone}: expected a zone, such as us-west4-a")
    for word in request.pin:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+!]+", word):
            raise UserError(f"--pin={word}: expected NAME==VERSION, such as jax==0.10.2")
    for name in ("wheel", "extras", "pin") if request.image else ():
        if getattr(request, name):
            raise UserError(f"--image and --{name}: the image has the package already")


def _check_gke(request: Request) -> None:
    _refuse(request, ("project", "zone", "region", "runtime", "wheel", "copy", "extra", "extras", "pin", "max_wait"))
    _needs(request, "image", "of the container, which Containerfile builds")


def _check_vertex(request: Request) -> None:
    _refuse(
        request,
        ("zone", "runtime", "wheel", "copy", "extras", "pin", "max_wait", "keep", "queue", "namespace", "context"),
    )
    if request.slice.version not in ("v5e", "v6e") or request.hosts > 1:
        raise UserError(
            f"--topology={request.topology}: Vertex AI is given slices of v5e and v6e here that have one host, such as v5e:2x4; "
            "others: --on=gke"
        )
    _needs(request, "project", "gcloud projects list")
    _needs(request, "region", "such as us-west4")
    _needs(request, "image", "of the container, which Containerfile builds")


def _needs(request: Request, name: str, where: str) -> None:
    if not getattr(request, name):
        raise UserError(f"--{name} is missing ({where}); --defaults names a file with what all launches share")


def _completed(request: Request) -> Request:
    """With --processes=auto where there are several hosts, and with buckets mounted."""
    words, buckets = [], list(request.buckets)
    follows = ""
    for word in request.words:
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else follows
        place = value if equals and flag.startswith("-") else word if follows else ""
        follows = "" if equals or not flag.startswith("-") else name
        if found := re.match(r"(gs|s3)://([^/]+)", place) if name in _RUNS else None:
            if request.on == "slurm" or found[1] != "gs":
                raise UserError(
                    f"--{name}={place}: expected a path that all machines see; of buckets, gs:// is mounted on Google's"
                )
            buckets.append(found[2])
            word = word.replace(f"gs://{found[2]}", f"{MOUNT}/{found[2]}", 1)
        elif place and name in _WRITTEN and request.on != "slurm":
            if (bucket := mounted(place)) is not None:
                buckets.append(bucket)
            elif not request.keep:
                raise UserError(
                    f"--{name}={place}: is on the machine alone, and goes with it: expected gs://BUCKET/FOLDER, which is mounted, or --keep"
                )
        words.append(word)
    several = request.hosts > 1 or (request.on == "slurm" and request.nodes > 1)
    if several and words[0] == "train" and not any(word.lstrip("-").startswith("processes") for word in words):
        words.append("--processes=auto")
    return dataclasses.replace(request, words=tuple(words), buckets=tuple(dict.fromkeys(buckets)))


def mounted(place: str) -> str | None:
    """The bucket that a path below MOUNT lies in."""
    found = re.match(rf"{re.escape(MOUNT)}/([^/]+)", place)
    return found[1] if found else None


def variables(given: Sequence[str]) -> dict[str, str]:
    """Of NAME=VALUE, or of NAME as it is here. Raises UserError."""
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise UserError(f"--env={word}: expected NAME=VALUE, or NAME of a variable that is set here")
        if not equals and name not in os.environ:
            raise UserError(f"--env={name}: is not set here{nearest(name, os.environ)}")
        found[name] = value if equals else os.environ[name]
    return found
