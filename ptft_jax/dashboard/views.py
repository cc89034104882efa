"""What the dashboard shows of a folder, as JSON's types. Nothing is written, and nothing outside of the folder is read."""

from __future__ import annotations

import collections
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ptft_jax.catalog import facts, where
from ptft_jax.catalog.index import Index
from ptft_jax.dashboard.machine import Machine
from ptft_jax.dashboard.series import Series
from ptft_jax.errors import UserError, nearest
from ptft_jax.experiments import record
from ptft_jax.experiments.store import read_state
from ptft_jax.reporting import graph_drawing
from ptft_jax.runs import files, owner
from ptft_jax.runs.workdir import Workdir

ROWS = 2000  # of a list
_LOG = 1 << 16  # bytes of the end of a log
# Texts of a run; folders down to an experiment; runs whose curves are drawn together.
_SAMPLES, _DEEP, _TOGETHER = 6, 4, 12


class NotThere(Exception):
    """There is no such thing in the folder."""


class Views:
    """What there is of a folder. May be asked by several threads."""

    def __init__(self, folder: pathlib.Path):
        self.folder = pathlib.Path(os.path.realpath(folder))
        self._series, self._machine, self._lock = Series(), Machine(), threading.Lock()

    def machine(self) -> dict[str, Any]:
        return self._machine.use()

    def runs(self, condition: str = "", sort: str = "-changed") -> dict[str, Any]:
        """The runs below the folder for which a condition holds (`ptft_jax.catalog.where`). Raises UserError."""
        with self._lock, Index(self.folder) as index:
            names = [*facts.OWN, *index.names()]
            name = sort.removeprefix("-")
            if name not in names:
                raise UserError(f"sort: no run has {name!r}{nearest(name, names)}")
            meant = where.parse(condition, names, "filter") if condition.strip() else None
            rows = index.rows([*facts.SHOWN, "changed"], meant, [(name, sort.startswith("-"))])
            return {"columns": facts.SHOWN, "rows": rows[:ROWS], "found": len(rows), "all": len(index)}

    def run(self, name: str) -> dict[str, Any]:
        """A run: what is known of it, its curves, its last texts, its log. Raises NotThere."""
        path = self._run(name)
        here, known = Workdir(path), facts.of(path)
        known.setdefault("state", facts.state(path))
        try:
            samples = here.read_samples()[-_SAMPLES:]
        except UserError as e:
            samples = [{"step": "-", "prompt": "", "text": str(e)}]
        summary = {key: value for key, value in known.items() if key in facts.SHOWN or key in ("changed", "ancestors")}
        return {
            "name": name,
            "summary": summary,
            "facts": {key: value for key, value in known.items() if key not in summary},
            "samples": samples,
            "log": self._log(path.parent.parent, _node_of(path)) if path.parent.name == "runs" else "",
        }

    def curves(self, names: list[str]) -> dict[str, Any]:
        """Of each run its curves by KIND/NAME, thinned; "missing" are those that there are not, or not any more."""
        runs, missing = dict[str, Any](), list[str]()
        for name in names[:_TOGETHER]:
            try:
                runs[name] = self._series.of(Workdir(self._run(name)).metrics)
            except NotThere:
                missing.append(name)
        return {"runs": runs, "missing": missing, "left_out": max(len(names) - _TOGETHER, 0)}

    def experiments(self) -> list[dict[str, Any]]:
        """The experiments of the folder, the last begun first."""
        found = []
        for path in _experiments(self.folder):
            lives = owner.alive(path)
            try:
                asked = record.read(path) or {"nodes": []}
                state = read_state(path).get("nodes", {})
                counts = dict(collections.Counter(self._statuses(path, asked, state, lives).values()))
                began = os.stat(path / record.FILE).st_mtime
            except (OSError, UserError, KeyError, TypeError, ValueError) as e:
                asked, counts, began = {"question": f"damaged: {e}", "command": []}, {}, 0.0
            question = record.asked(asked.get("question", ""), asked.get("command", []))
            name = path.relative_to(self.folder).as_posix()
            found.append({"name": name, "question": question, "nodes": counts, "running": lives, "began": began})
        return sorted(found, key=lambda one: -one["began"])

    def experiment(self, name: str) -> dict[str, Any]:
        """An experiment: its question, graph, nodes, and its report once that is written. Raises NotThere."""
        path = self._inside(name)
        asked = record.read(path) if (path / record.FILE).is_file() else None
        if asked is None:
            raise NotThere(f"no experiment {name}")
        state = read_state(path).get("nodes", {})
        lives = owner.alive(path)
        statuses = self._statuses(path, asked, state, lives)
        nodes = []
        for node in asked["nodes"]:
            done = state.get(node["name"], node)
            inside = self._seen(path / node["folder"]) if node["folder"] else ""
            nodes.append(
                {
                    **{key: node[key] for key in ("name", "kind", "parents", "group", "point", "seed")},
                    "status": statuses[node["name"]],
                    "message": done.get("message", ""),
                    "seconds": done.get("seconds"),
                    "run": inside if inside and Workdir(self.folder / inside).is_run else "",
                }
            )
        text = path / record.MARKDOWN
        return {
            "name": name,
            "question": record.asked(asked["question"], asked["command"]),
            "running": lives,
            "counts": dict(collections.Counter(statuses.values())),
            "graph": graph_drawing.svg(nodes) if nodes else "",
            "nodes": nodes[:ROWS],
            "left_out": max(len(nodes) - ROWS, 0),
            "report": self._beginning(text) if text.is_file() else "",
            "page": (path / record.PAGE).is_file(),
        }

    def log(self, experiment: str, node: str) -> str:
        """The end of what was said while a node was carried out. Raises NotThere."""
        path = self._inside(experiment)
        if not (path / record.FILE).is_file():
            raise NotThere(f"no experiment {experiment}")
        return self._log(path, node)

    def page(self, experiment: str) -> bytes:
        """The page of an experiment. Raises NotThere."""
        path = self._inside(experiment, record.PAGE)
        if not path.is_file():
            raise NotThere(f"{experiment} has no report yet")
        return path.read_bytes()

    def _run(self, name: str) -> pathlib.Path:
        path = self._inside(name)
        here = Workdir(path)
        if not here.is_run:
            raise NotThere(f"no run {name}")
        for file in (
            here.config,
            here.summary,
            here.metrics,
            here.samples,
            here.lineage,
            here.node,
        ):  # which may be links to elsewhere
            self._check(file)
        return path

    def _inside(self, *names: str) -> pathlib.Path:
        """A place in the folder. Raises NotThere for one that is not in it, by whatever name or link."""
        if any("\0" in name for name in names):
            raise NotThere("no such name")
        return self._check(self.folder.joinpath(*names))

    def _check(self, path: pathlib.Path) -> pathlib.Path:
        real = pathlib.Path(os.path.realpath(path))
        if not real.is_relative_to(self.folder):
            raise NotThere(f"{path.name} is not in the folder")
        return real

    def _seen(self, path: pathlib.Path) -> str:
        """A place as it is called in the folder; "" of one elsewhere."""
        real = pathlib.Path(os.path.realpath(path))
        return real.relative_to(self.folder).as_posix() if real.is_relative_to(self.folder) else ""

    def _log(self, experiment: pathlib.Path, node: str) -> str:
        seen = self._seen(experiment)
        if not seen:
            return ""
        path = self._inside(seen, "logs", f"{node}.log")
        if path.parent != self._check(experiment / "logs") or not path.is_file():
            return ""
        return self._text(path)

    def _text(self, path: pathlib.Path) -> str:
        """The end of a text."""
        with open(self._check(path), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _LOG, 0))
            text = file.read().decode("utf-8", "replace")
        return text if size <= _LOG else f"... {size - _LOG:,} bytes before\n{text.partition(chr(10))[2]}"

    def _beginning(self, path: pathlib.Path) -> str:
        """The lines of a text that come first."""
        with open(self._check(path), "rb") as file:
            text = file.read(_LOG + 1)
        if len(text) <= _LOG:
            return text.decode("utf-8", "replace")
        return text.rpartition(b"\n")[0].decode("utf-8", "replace") + f"\n\nMore is in {path.name}."

    def _statuses(
        self, path: pathlib.Path, asked: Mapping[str, Any], state: Mapping[str, Any], lives: bool
    ) -> dict[str, str]:
        """Node -> where it stands: how it ended by `state`, else running, where a launch lives, or waiting."""
        found = {}
        for node in asked["nodes"]:
            done = state.get(node["name"], node)
            if "status" not in done:
                seen = self._seen(path / node["folder"]) if lives else ""
                begun = bool(seen) and Workdir(self.folder / seen).node.is_file()
                found[node["name"]] = "running" if begun else "waiting"
            else:
                found[node["name"]] = done["status"]
        return found


def _node_of(folder: pathlib.Path) -> str:
    """What the node in a folder is called: NAME of NAME.2, too."""
    try:
        return str(files.read_json(Workdir(folder).node)["name"])
    except (OSError, UserError, KeyError, TypeError):  # no node, or one that is damaged
        return folder.name


def _experiments(folder: pathlib.Path, deep: int = _DEEP) -> Iterator[pathlib.Path]:
    """Folders of experiments, which are not looked into, nor are links, hidden ones and runs."""
    if (folder / record.FILE).is_file():
        yield folder
        return
    if deep < 0 or Workdir(folder).is_run:
        return
    try:
        with os.scandir(folder) as entries:
            inside = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except OSError:  # not ours to read, or gone meanwhile
        return
    for path in inside:
        yield from _experiments(pathlib.Path(path), deep - 1)
