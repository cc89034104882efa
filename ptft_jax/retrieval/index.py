"""Indexes: folders that `ptft index` makes, and what is looked up in them.

FOLDER/index.json               what it was made of, and a fingerprint of all that
FOLDER/passages.jsonl, .npy     the passages, and where each begins
FOLDER/*.index.*                of kind bm25: bm25s' files
FOLDER/vectors.npy              of kind dense: float32 [passages, D]
FOLDER/keys.npy, targets.npy    of kind knn (`ptft_jax.retrieval.knn`), which has no passages
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ptft_jax.data import cache, jsons, token_folder, whole_folders
from ptft_jax.errors import UserError, listed
from ptft_jax.retrieval import bm25, passages
from ptft_jax.retrieval.passages import Corpus, Passage, Written

MANIFEST, PROGRESS = "index.json", "unfinished.json"
ARRAYS = ("vectors.npy", "keys.npy", "targets.npy")
FORM = 1


class Searcher(Protocol):
    """What finds passages."""

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]: ...


class Progress:
    """How much of a folder that is being filled is done, of which a process that is killed loses the last part at most."""

    def __init__(self, folder: pathlib.Path, identity: Mapping[str, Any]):
        """Empties the folder unless a process that was killed left it there, which made the same."""
        self._path, self._of = folder / PROGRESS, cache.digest(json.dumps(identity, sort_keys=True))
        found: dict[str, Any] = {}
        if self._path.is_file():
            try:
                found = jsons.table(self._path.read_bytes(), str(self._path))
            except UserError:  # it was killed just then
                found = {}
        if found.get("of") != self._of:
            found = {}
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.done: dict[str, Any] = found.get("done", {})

    def note(self, **done: Any) -> None:
        """What is done, and on the disk."""
        self.done |= done
        text = json.dumps({"of": self._of, "done": self.done})
        cache.write_atomic(self._path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def end(self) -> None:
        """Nothing is left to do."""
        self._path.unlink(missing_ok=True)


def made(
    out: pathlib.Path, identity: Mapping[str, Any], fill: Callable[[pathlib.Path, Progress], Mapping[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Makes a folder, which is there at the end as a whole or not at all; a process that was killed is continued.

    Args:
      identity: all that decides what is in it.
      fill: writes its files; gives what else the manifest is to say.

    Returns:
      The manifest; whether it was there already, made of the same.

    Raises:
      UserError: the folder holds something else, or another process is making it.
    """
    if out.exists():
        return _existing(out, identity), True
    with whole_folders.partial(out, "making") as folder:
        if not out.exists():  # nor made since by another process
            progress = Progress(folder, identity)
            facts = dict(fill(folder, progress))
            progress.end()
            files = {path.name: cache.sha256(path) for path in sorted(folder.iterdir())}
            # What is found, wherever it lies and however it is called: not places.
            decided = {name: identity[name] for name in ("form", "kind", "settings", "fingerprints")}
            decided |= {"content": facts.get("content"), "arrays": {n: files[n] for n in ARRAYS if n in files}}
            known = {"fingerprint": cache.digest(json.dumps(decided, sort_keys=True))}
            manifest = jsons.with_checksum({**identity, **facts, "files": files, **known})
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            folder.rename(out)
            return manifest, False
    return _existing(out, identity), True


def _existing(out: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    if not (out / MANIFEST).is_file():
        raise UserError(f"--out={out}: exists, and is no index (no {MANIFEST}); name another")
    there = manifest(out, "--out")
    if changed := whole_folders.differences(there, identity):
        raise UserError(f"--out={out}: exists, made of something else; delete it or name another:{listed(changed)}")
    return there


def build(
    out: pathlib.Path,
    kind: str,
    corpus: Corpus,
    *,
    words: int = 0,
    k1: float = 1.5,
    b: float = 0.75,
    run: str = "",
    encoder: Any = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
    """Makes an index of a corpus; see `made`.

    Args:
      kind: "bm25" or "dense".
      words: as the corpus was cut by.
      run, encoder: of kind dense, the reference of a run and its `ptft_jax.retrieval.dense.Encoder`.
      say: told what is being done.

    Raises:
      UserError: an empty passage, an id that comes twice, one that the encoder has no room for; `made`.
    """
    if kind == "bm25":
        bm25.library()  # said before anything is read
    how = {"k1": k1, "b": b} if kind == "bm25" else dict(encoder.identity)
    identity = {
        "form": FORM,
        "kind": kind,
        "fingerprints": corpus.fingerprints,
        "settings": {"words": words, **how},
    }

    def fill(folder: pathlib.Path, progress: Progress) -> Mapping[str, Any]:
        if "passages" not in progress.done:
            count, content = passages.write(folder, iter(corpus))
            progress.note(passages=count, content=content)
        written = Written(folder)
        say(f"{len(written):,} passages")
        if kind == "bm25":
            bm25.build(folder, written, k1, b)
        else:
            from ptft_jax.retrieval import dense

            def at(count: int) -> None:
                progress.note(vectors=count)
                say(f"{count:,} of {len(written):,} passages")

            dense.build(folder, written, encoder, progress.done.get("vectors", 0), at)
        facts = {"corpus": corpus.reference} | {name: progress.done[name] for name in ("passages", "content")}
        return {**facts, **({"run": run} if run else {}), "sources": token_folder.noted(corpus.sources)}

    return made(out, identity, fill)


def manifest(folder: pathlib.Path, field: str) -> dict[str, Any]:
    """What an index was made of. Raises UserError where there is none, or it was altered."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{field}={folder}: no {MANIFEST} there; ptft index --out={folder} makes such a folder")
    found = jsons.table(path.read_bytes(), str(path))
    if not jsons.intact(found):
        raise UserError(f"{path}: damaged: it is not what was written; delete the index and make it again")
    if found.get("form") != FORM:
        raise UserError(f"{path}: of another form than this version's: make the index again")
    return found


class Index:
    """An index of passages.

    Attributes:
      folder: where it lies.
      facts: its manifest.
      passages: by their numbers.
    """

    def __init__(self, folder: str, field: str):
        """Raises UserError: no index, one of states (knn), a damaged one; a corpus that is there and has changed since."""
        self.folder = pathlib.Path(folder).expanduser()
        self.facts = manifest(self.folder, field)
        if self.facts["kind"] == "knn":
            raise UserError(f"{field}={folder}: an index of states, which has no passages: for ptft eval --knn")
        check_files(self.folder, self.facts)
        check_corpus(self.folder, self.facts, field)
        self.passages = Written(self.folder)

    @property
    def fingerprint(self) -> str:
        return str(self.facts["fingerprint"])

    @property
    def described(self) -> str:
        """What it is, for people."""
        return f"{self.folder} ({self.facts['kind']}, {len(self.passages):,} passages of {self.facts['corpus']}, {self.fingerprint[:8]})"

    @functools.cached_property
    def searcher(self) -> Searcher:
        """What finds passages."""
        if self.facts["kind"] == "bm25":
            return bm25.Bm25(self.folder, self.passages)
        from ptft_jax.retrieval import dense

        return dense.Dense(self.folder, self._encoder)

    def _encoder(self) -> Any:
        from ptft_jax.retrieval import dense
        from ptft_jax.runs import loading

        field = f"{self.folder / MANIFEST}: run"
        found = dense.Encoder(loading.load(self.facts["run"], field=field), self.facts["settings"]["pooling"])
        for name, value in found.identity.items():
            if value != self.facts["settings"][name]:
                raise UserError(
                    f"{field} = {self.facts['run']!r}: its {name} {value} is not that of the index, {self.facts['settings'][name]}: "
                    "it is another run than the one whose vectors these are; make the index again"
                )
        return found

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `ptft_jax.retrieval.bm25.Bm25.search`."""
        return self.searcher.search(queries, k)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self.passages)


def check_files(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Raises UserError where a file of an index is not as it was written."""
    for name, digest in facts["files"].items():
        if not (folder / name).is_file() or cache.sha256(folder / name) != digest:
            raise UserError(f"{folder / name}: damaged: it is not what was written; delete the index and make it again")


def check_corpus(folder: pathlib.Path, facts: Mapping[str, Any], field: str) -> None:
    """Raises UserError where the corpus of an index is there, and no longer what it was."""
    if changed := token_folder.changed(facts):
        raise UserError(
            f"{field}={folder}: its corpus has changed since it was made: {changed[0]}: it is an index of another corpus; make it again"
        )
