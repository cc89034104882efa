"""What is copied to machines that have nothing: the package, files of the user, and scripts that install and run. One archive."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import sys
import tarfile

import ptft_jax
from ptft_jax.errors import UserError, few
from ptft_jax.jobs.failures import Failed, told
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.request import MOUNT, Request
from ptft_jax.jobs.shell import Shell

ARCHIVE = "job.tar.gz"
STATUS = "ptft-job-status"  # what the last line of what is followed begins with
BEGIN = "ptft-job-log"  # the line before the first
_GCSFUSE = "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v2.7.0/gcsfuse_2.7.0_amd64.deb"
_PYTHON = "3.12"  # machines of Cloud TPU have 3.10
_SECRET = "..."


def check(request: Request) -> None:
    """Raises UserError for files that are not there, or that the command names and nobody copies."""
    here = pathlib.Path.cwd()
    for name in request.copy:
        path = pathlib.Path(name)
        if not path.exists():
            raise UserError(f"--copy={name}: is not there")
        if path.is_absolute() or not path.resolve().is_relative_to(here):
            raise UserError(f"--copy={name}: expected a path below this folder, as the command names it")
    if request.wheel and not (request.wheel.endswith(".whl") and pathlib.Path(request.wheel).is_file()):
        raise UserError(f"--wheel={request.wheel}: expected a file that ends in .whl")
    if request.on == "tpu" and not request.wheel and not request.image and _checkout() is None:
        raise UserError(
            "--wheel or --image is missing: ptft_jax is not a checkout here, of which a wheel could be built"
        )
    if request.on != "slurm":
        _check_named(request)


def _check_named(request: Request) -> None:
    for word, following in zip(request.words, [*request.words[1:], ""]):
        flag, equals, value = word.partition("=")
        if flag.lstrip("-") not in ("config", "file") or not flag.startswith("-"):
            continue
        name = (value if equals else following).partition(":")[0]
        path = pathlib.Path(name)
        copied = any(path == pathlib.Path(one) or pathlib.Path(one) in path.parents for one in request.copy)
        if path.is_file() and not copied:
            if request.on == "tpu":
                raise UserError(
                    f"{flag}={name}: is a file of this machine alone: --copy={name}, or the name of a recipe that is shipped"
                )
            if not request.image or request.on in ("gke", "vertex"):
                raise UserError(
                    f"{flag}={name}: is a file of this machine, and may not be in the image: expected the name of a recipe that is shipped"
                )


def _checkout() -> pathlib.Path | None:
    root = pathlib.Path(ptft_jax.__file__).parents[1]
    return root if (root / "setup.py").is_file() and (root / "configs").is_dir() else None


def mount(bucket: str, sudo: bool = True) -> str:
    """A command that mounts a bucket, unless it is. Folders are renamed, and all hosts see at once what one wrote."""
    place, who = shlex.quote(f"{MOUNT}/{bucket}"), "sudo " if sudo else ""
    options = "--implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 -o allow_other"
    return (
        f"mountpoint -q {place} || {{ {who}mkdir -p {place} && "
        f'{who}gcsfuse {options} --uid="$(id -u)" --gid="$(id -g)" {shlex.quote(bucket)} {place}; }}'
    )


def _install(request: Request, wheel: str) -> str:
    lines = [
        "#!/bin/bash",
        "# Installs, and mounts buckets. May be begun again.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
    ]
    if request.buckets:
        lines += [
            "if ! command -v gcsfuse > /dev/null; then",
            f"  curl -fsSLo gcsfuse.deb {_GCSFUSE}",
            "  # a machine that has just started updates itself, and holds the lock",
            "  sudo apt-get -o DPkg::Lock::Timeout=600 -q update && sudo apt-get -o DPkg::Lock::Timeout=600 -qy install ./gcsfuse.deb",
            "fi",
            *map(mount, request.buckets),
        ]
    if request.image:
        registry = request.image.partition("/")[0]
        lines += (
            [f"sudo gcloud auth configure-docker {shlex.quote(registry)} --quiet"] if ".pkg.dev" in registry else []
        )
        lines += [f"sudo docker pull {shlex.quote(request.image)}"]
    else:
        extras = ",".join(["tpu", "gcs", *filter(None, request.extras.split(","))])
        lines += [
            'export PATH="$HOME/.local/bin:$PATH"',
            "command -v uv > /dev/null || python3 -m pip install --quiet --user uv",
            f"[ -x env/bin/python ] || uv venv --quiet --python {_PYTHON} env",
            " ".join(
                [
                    f'uv pip install --quiet --python env/bin/python "ptft_jax[{extras}] @ file://$PWD/{wheel}"',
                    *map(shlex.quote, request.pin),
                ]
            ),
        ]
    return "\n".join([*lines, ""])


def _run(request: Request) -> str:
    command = shlex.join(request.words)
    if request.image:
        mounted = f" -v {MOUNT}:{MOUNT}" if request.buckets else ""
        ptft = (
            f'sudo docker run --rm --privileged --net=host --shm-size=16g{mounted} -v "$PWD:/work" -w /work --env-file ../env.list '
            f"{shlex.quote(request.image)} ptft"
        )
    else:
        ptft = "../env/bin/ptft"
    return "\n".join(
        [
            "#!/bin/bash",
            "# Runs the command, and leaves its exit status.",
            'cd "$(dirname "$0")"',
            "echo $$ > pid",
            "set -a; . ./env.sh; set +a",
            "cd files",
            f"{ptft} {command}",
            "echo $? > ../status.part && mv ../status.part ../status",
            "",
        ]
    )


def scripts(request: Request, wheel: str, hidden: bool = False) -> dict[str, str]:
    """Name -> text of what is written for a job; with `hidden`, to be looked at: without what variables hold."""
    env = {name: _SECRET if hidden else value for name, value in request.env.items()}
    if request.image and any("\n" in value for value in env.values()):
        raise UserError("--env: a value of several lines does not get into a container")
    return {
        "install.sh": _install(request, wheel),
        "run.sh": _run(request),
        "env.sh": "".join(f"{name}={shlex.quote(value)}\n" for name, value in env.items()),
        **({"env.list": "".join(f"{name}={value}\n" for name, value in env.items())} if request.image else {}),
    }


def built(folder: pathlib.Path, shell: Shell) -> pathlib.Path:
    """In a folder, a wheel of this checkout, of a copy: what earlier builds left in it goes into none. Raises Failed."""
    checkout, source = _checkout(), folder / "source"
    assert checkout is not None  # see `check`
    if shell.dry:
        shell.say(f"# {source}: a copy of {checkout}")
    else:
        for name in ("ptft_jax", "configs", "experiments"):
            shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in checkout.iterdir():
            if path.is_file():
                shutil.copy(path, source)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(source)]
    done = shell.run(words)
    shutil.rmtree(source, ignore_errors=True)
    if done.status:
        raise Failed(told("no wheel could be built of the checkout", done.said))
    found = sorted(folder.glob("*.whl"))
    return found[-1] if found else folder / f"ptft_jax-{ptft_jax.__version__}-py3-none-any.whl"


def make(job: Job, shell: Shell) -> pathlib.Path:
    """Makes the archive, in the job's folder. With a dry shell, says what would be in it. Raises Failed where no wheel can be built."""
    request, archive = job.request, job.files / ARCHIVE
    wheel = pathlib.Path(request.wheel) if request.wheel else None
    if not shell.dry:
        job.files.mkdir(parents=True, exist_ok=True, mode=0o700)
    if wheel is None and not request.image:
        wheel = built(job.files, shell)
    name = wheel.name if wheel else ""
    if shell.dry:
        for script, text in scripts(request, name, hidden=True).items():
            shell.say(f"# {script}\n{text}")
        shell.say(
            f"# {archive}: {few([*scripts(request, name), *filter(None, [name]), *(f'files/{one}' for one in request.copy)])}"
        )
        return archive
    for script, text in scripts(request, name).items():
        path = job.files / script
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    (job.files / "files").mkdir(exist_ok=True)
    archive.touch(mode=0o600)
    with tarfile.open(archive, "w:gz") as made:
        for script in scripts(request, name):
            made.add(job.files / script, script)
        if wheel:
            made.add(wheel, name)
        made.add(job.files / "files", "files", recursive=False)
        for one in request.copy:
            made.add(one, f"files/{pathlib.Path(one)}")
    return archive
