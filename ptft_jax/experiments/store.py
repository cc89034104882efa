"""The folder of an experiment: FOLDER/runs/NAME for each node, found by what the node is, wherever it lies and whatever it is called.

FOLDER/runs/NAME/node.json   what a node is (`ptft_jax.experiments.identity`), and what it came to
FOLDER/runs/NAME.2           another node of that name: what is there stays as it is
FOLDER/logs/NAME.log         what was said while it was carried out
FOLDER/state.json            how each node of the last launch ended
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.runs import files, places
from ptft_jax.runs.workdir import Workdir

RESULTS = ("finished", "diverged")  # what is not carried out again
STATE = "state.json"
_WORKDIRS = ("run", "merge")  # kinds whose folder is a run's


@dataclasses.dataclass(frozen=True)
class Kept:
    """A node that was carried out, or begun.

    Attributes:
      folder: where.
      name: what it was called.
      identity: `Identity.as_dict` of it.
      result: {"status": of `RESULTS`, "seconds", "message", "values"}; None where it has not come to one.
    """

    folder: pathlib.Path
    fingerprint: str
    name: str
    identity: Mapping[str, Any]
    result: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: pathlib.Path) -> Kept | None:
        """What is in a folder; None where that is no node of an experiment."""
        path = Workdir(folder).node
        if not path.is_file():
            return None
        found = files.read_json(path)
        try:
            result, _, _ = found["result"], found["identity"]["settings"], found["identity"]["code"]
            if result and result["status"] == "finished" and found["identity"]["kind"] in _WORKDIRS:
                result = result if Workdir(folder).is_finished else None  # what it came to was removed
            return cls(folder, found["fingerprint"], found["name"], found["identity"], result)
        except (KeyError, TypeError):
            raise UserError(f"{path}: is damaged: it is not what an experiment writes") from None

    def write(self) -> None:
        """Writes it into its folder, which is made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"name": self.name, "fingerprint": self.fingerprint, "identity": self.identity, "result": self.result}
        files.write_json(Workdir(self.folder).node, kept)


class Store:
    """What there is of earlier launches, in a folder and in others that are only read."""

    def __init__(self, folder: str | pathlib.Path, reuse: Sequence[str | pathlib.Path] = ()):
        """`reuse`: folders of other experiments. Raises UserError where one of them is none."""
        self.folder = places.local(folder, f"--out={folder}").expanduser().absolute()
        self._others = [places.local(place, f"--reuse={place}").expanduser().absolute() for place in reuse]
        for place in self._others:
            if not (place / "runs").is_dir():
                raise UserError(f"--reuse={place}: no folder of an experiment: there is no {place / 'runs'}")
        self._mine = _kept(self.folder)
        self._by_fingerprint: dict[str, Kept] = {}
        self._by_name: dict[str, Kept] = {}
        for kept in (*(k for place in self._others for k in _kept(place)), *self._mine):
            before = self._by_fingerprint.get(kept.fingerprint)
            if before is None or kept.result or not before.result:  # its own before those of others
                self._by_fingerprint[kept.fingerprint] = kept
        for kept in self._mine:
            self._by_name[kept.name] = kept

    @property
    def all(self) -> list[Kept]:
        """All that is known."""
        return list(self._by_fingerprint.values())

    def find(self, fingerprint: str) -> Kept | None:
        """The node that has this fingerprint: one that came to a result, wherever that is; else one that was begun here."""
        kept = self._by_fingerprint.get(fingerprint)
        if kept is not None and (kept.result or self.owns(kept.folder)):
            return kept
        return next((k for k in self._mine if k.fingerprint == fingerprint), None)

    def latest(self, name: str) -> Kept | None:
        """The node that had this name last, here."""
        return self._by_name.get(name)

    def owns(self, folder: pathlib.Path) -> bool:
        """Whether a folder lies in this experiment's."""
        return folder.is_relative_to(self.folder)

    def free(self, name: str, taken: Sequence[pathlib.Path] = ()) -> pathlib.Path:
        """A folder for a new node of this name, where nothing is, and that is none of `taken`."""
        number = 1
        while True:
            folder = self.folder / "runs" / (name if number == 1 else f"{name}.{number}")
            if folder not in taken and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
                return folder
            number += 1

    def log(self, name: str) -> pathlib.Path:
        """What was said while a node was carried out."""
        return self.folder / "logs" / f"{name}.log"

    @property
    def state(self) -> pathlib.Path:
        return self.folder / STATE


def _kept(folder: pathlib.Path) -> list[Kept]:
    """The nodes in a folder, the oldest of a name first."""
    runs = folder / "runs"
    if not runs.is_dir():
        return []
    there = sorted(
        (path for path in runs.iterdir() if path.is_dir()),
        key=lambda path: (len(path.name), path.name),
    )
    return [kept for kept in map(Kept.read, there) if kept is not None]


def read_state(folder: pathlib.Path) -> dict[str, Any]:
    """How the nodes of the last launch in a folder ended; {} where there was none. Raises UserError for a damaged file."""
    path = folder / STATE
    return files.read_json(path) if path.is_file() else {}


def seen_from(root: pathlib.Path, folder: pathlib.Path) -> str:
    """A node's folder, seen from the experiment's where it lies in it: both may be moved."""
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
