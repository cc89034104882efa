"""What a node is: all that decides what it comes to, and a fingerprint of that. No path, name, time or revision is part of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax import config as configs
from ptft_jax.config.computed import computed
from ptft_jax.config.field import shown
from ptft_jax.config.plugins import tables
from ptft_jax.data import cache, records, token_folder
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.trained_on import PARENT
from ptft_jax.experiments.nodes import Node, is_reference, parted
from ptft_jax.runs import meant
from ptft_jax.runs import source as restore
from ptft_jax.runs.lineage import parted as adapter_parted
from ptft_jax.runs.workdir import Workdir

# The version of what computes, by subsystem: raised by whoever changes what comes out, so that nodes that use it are carried out
# again. A revision would do that at every change.
CODE: Mapping[str, int] = {"model": 1, "data": 1, "training": 3, "evaluation": 1, "combining": 1}
USES: Mapping[str, tuple[str, ...]] = {
    "run": ("model", "data", "training", "evaluation"),
    "merge": ("model", "data", "evaluation", "combining"),
    "evaluation": ("model", "data", "evaluation"),
    "call": (),
}
_SOURCES = (
    "data.source",
    "eval.source",
    "eval.answers.source",
    "eval.behavior.source",
    "eval.behavior.also",
    "source",
    "also",
    "data",
)  # the last three are of other nodes than runs
_PLACES = ("train", "validation", "test", "dir", "retrieve")  # options of sources that name files


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a node is.

    Attributes:
      settings: setting -> value, of those that are not as by default, or what it stands for: of data a fingerprint of the
        content, of another node {"node": its fingerprint, "rest": "@best"}.
      code: subsystem -> version.
    """

    kind: str
    settings: Mapping[str, Any]
    code: Mapping[str, int]

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits."""
        return cache.digest(json.dumps([self.kind, self.settings, self.code], sort_keys=True))

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """ "SETTING: BEFORE -> NOW" of what a node that is recorded as `before` (`as_dict`) had otherwise."""
        found = []
        for path in dict.fromkeys((*self.settings, *before["settings"])):
            old, new = (side.get(path) for side in (before["settings"], self.settings))
            if old != new:
                found.append(f"{path.rstrip('_')}: {_change(old, new)}")
        versions = before["code"]
        found += [
            f"version of {name}: {versions.get(name)} -> {self.code.get(name)}"
            for name in dict.fromkeys((*self.code, *versions))
            if versions.get(name) != self.code.get(name)
        ]
        return found

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "settings": dict(self.settings), "code": dict(self.code)}


class _Asked(NamedTuple):
    """Of the node whose settings are looked at."""

    kind: str
    plugins: tuple[str, ...]
    broken: str
    continues: bool  # with another run's optimizer


class Identities:
    """The identities of a graph's nodes: content that several use is looked at once."""

    def __init__(self, known: Mapping[str, Identity] | None = None) -> None:
        """`known`: identities of nodes by name."""
        self._known = dict(known or {})
        self._content: dict[Any, Any] = {}

    def of(self, node: Node) -> Identity:
        """The identity of a node, those of whose parents were asked for before. Raises UserError for data that cannot be read."""
        if node.kind == "run":
            values = node.settings["config"]
            plugins, settings = tuple(values.get("plugins", ())), dict(computed(values))
            if values["eval"]["metrics"] != configs.default().eval.metrics:  # what its summary has
                settings["eval.metrics"] = values["eval"]["metrics"]
            broken = values["data"]["broken"]
        else:
            plugins, settings, broken = tuple(node.settings.get("plugins", ())), dict(node.settings), "raise"
            if node.kind == "call":
                settings |= {f"arguments.{name}": value for name, value in settings.pop("arguments").items()}
        asked = _Asked(node.kind, plugins, broken, settings.get("init.optimizer", False))
        found = {path: self._meaning(asked, path, value) for path, value in settings.items()}
        made = Identity(node.kind, json.loads(json.dumps(found)), {name: CODE[name] for name in USES[node.kind]})
        self._known[node.name] = made
        return made

    def _meaning(self, asked: _Asked, path: str, value: Any) -> Any:
        """What a value stands for."""
        if isinstance(value, (list, tuple)) and path != "data.mixture":
            return [self._meaning(asked, path, item) for item in value]
        if isinstance(value, Mapping):
            return {key: self._meaning(asked, path, item) for key, item in value.items()}
        if is_reference(value):
            source, name, rest = parted(value)
            return {"node": self._known[name].fingerprint, "rest": rest} | ({"source": source} if source else {})
        if not value or asked.kind == "call":
            return value
        if path == "data.mixture":
            return [[self._meaning(asked, "data.source", name), weight] for name, weight in value]
        if path in _SOURCES:
            return self._source(value, asked.plugins, asked.broken)
        if path in ("of", "runs", "base"):
            return self._once(("parent", value), lambda: _run(value))
        means = meant.SETTINGS.get(path)
        if means in (meant.parent, meant.parents):  # of several, one at a time
            bare = "last" if path == "init.from_" and asked.continues else "best"
            return self._once(("parent", value, bare), lambda: _run(value, bare))
        if means in (meant.file, meant.template) or path == "template":
            return self._once((path, value), lambda: _file(value, tokenizer=path == "tokenizer.path"))
        return value

    def _source(self, reference: str, plugins: tuple[str, ...], broken: str) -> Any:
        if reference == PARENT or ":" not in reference:  # what a run says of it that is none
            return reference
        return self._once(("source", reference, plugins, broken), lambda: _source(reference, plugins, broken))

    def _once(self, key: Any, find: Any) -> Any:
        if key not in self._content:
            self._content[key] = find()
        return self._content[key]


def _source(reference: str, plugins: tuple[str, ...], broken: str) -> dict[str, Any]:
    """A data source by what is in it, wherever its files lie."""
    kinds = tables(plugins).sources
    parsed = records.parse(reference, kinds)
    options = {name: value for name, value in sorted(parsed.options.items()) if name not in _PLACES}
    if parsed.kind == token_folder.KIND:
        folder = pathlib.Path(parsed.name)
        token_folder.manifest(folder)  # whether it is there, and whole
        return {"kind": parsed.kind, "content": cache.sha256(folder / token_folder.MANIFEST)[:32]}
    source = records.open_source(reference, broken=broken, kinds=kinds, trains=False)
    content = {split: source.whole(split).fingerprint for split in source.own}
    return {"kind": parsed.kind, "options": options, "content": content}


def _run(reference: str, bare: str = "best") -> Any:
    """A run or weights outside of the graph, by what they are; `bare` is the checkpoint that a run's name alone means."""
    if restore.is_reference(reference):
        kind, _, name = reference.partition(":")
        return {"kind": kind, "content": _content(pathlib.Path(name).expanduser(), name)}
    found = restore.find_run(reference, "init.from", together=True, bare=bare)
    run_id = Workdir(found.workdir).run_id or found.meta.get("fingerprint", "")
    return {"run": run_id, "step": found.step, "adapter": adapter_parted(reference)[1]}


def _file(text: str, *, tokenizer: bool) -> Any:
    path = pathlib.Path(text).expanduser()
    if tokenizer and path.is_dir():
        return {name: cache.sha256(path / name)[:32] for name in sorted(tok.stored(path))}
    return _content(path, text)


def _content(path: pathlib.Path, name: str) -> Any:
    """The digest of a file, or of those of a folder by their names; the name of what is neither."""
    if path.is_file():
        return cache.sha256(path)[:32]
    if path.is_dir():
        return {file: cache.sha256(path / file)[:32] for file in _files(path)}
    return name


def _files(folder: pathlib.Path) -> Sequence[str]:
    return sorted(p.name for p in os.scandir(folder) if p.is_file() and not p.name.startswith("."))


def _change(old: Any, new: Any) -> str:
    if all(isinstance(side, Mapping) and "node" in side for side in (old, new)):
        changed = [] if old["node"] == new["node"] else ["the node it names has changed"]
        changed += [] if old["rest"] == new["rest"] else [f"{old['rest'] or 'best'} -> {new['rest'] or 'best'}"]
        return ", ".join(changed)
    if any(isinstance(side, Mapping) and "content" in side for side in (old, new)):
        return "its content has changed" if old and new else "data that were not there before"
    shorter = ["as by default" if side is None else shown(side) for side in (old, new)]
    return " -> ".join(shorter)
