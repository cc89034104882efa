"""What a config can name: the tables of the package joined with those of its plugins. Needs no JAX, but what plugins need.

A plugin is a module with tables, plain mappings: `OBJECTIVES` of `ObjectiveSpec`, `METHODS` of `MethodSpec`, and so on
(`_SPECS`). Nothing registers itself: a config names its plugins (`config.plugins`), and whoever reads the config joins their
tables here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.metadata
import keyword
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ptft_jax.config.behaviors import TASKS, TaskSpec
from ptft_jax.config.behaviors import is_taken as is_setting
from ptft_jax.config.families import FAMILIES, FamilySpec
from ptft_jax.config.field import Field
from ptft_jax.config.methods import METHODS, MethodSpec
from ptft_jax.config.metrics import METRICS, MetricSpec, is_taken
from ptft_jax.config.objectives import OBJECTIVES, ObjectiveSpec
from ptft_jax.config.sources import SOURCES, SourceSpec
from ptft_jax.config.tools import TOOLS, ToolSpec
from ptft_jax.config.tools import is_taken as is_tool_setting
from ptft_jax.config.trackers import TRACKERS, TrackerSpec
from ptft_jax.config.verifiers import VERIFIERS, VerifierSpec
from ptft_jax.config.verifiers import is_taken as is_verifier_setting
from ptft_jax.errors import UserError, nearest

GROUP = "ptft_jax.plugins"  # of entry points: a short name for a module
_TAKEN = (
    "as_dict",
    "default",
    "fields",
    "read_all",
    "refuse_unread",
    "suggested",
    "tables",
)  # what a section of a config has
_SPECS = {
    "OBJECTIVES": ObjectiveSpec,
    "METHODS": MethodSpec,
    "SOURCES": SourceSpec,
    "METRICS": MetricSpec,
    "FAMILIES": FamilySpec,
    "VERIFIERS": VerifierSpec,
    "TRACKERS": TrackerSpec,
    "TASKS": TaskSpec,
    "TOOLS": ToolSpec,
}


class Tables(NamedTuple):
    """By name, what a config may name; `owners`: (name of the table, name) of an entry of a plugin -> the plugin."""

    objectives: Mapping[str, ObjectiveSpec]
    methods: Mapping[str, MethodSpec]
    sources: Mapping[str, SourceSpec]
    metrics: Mapping[str, MetricSpec]
    families: Mapping[str, FamilySpec]
    verifiers: Mapping[str, VerifierSpec]
    trackers: Mapping[str, TrackerSpec]
    tasks: Mapping[str, TaskSpec]
    tools: Mapping[str, ToolSpec]
    owners: Mapping[tuple[str, str], str]


@functools.cache
def tables(plugins: tuple[str, ...] = ()) -> Tables:
    """The tables of the package joined with those of `plugins`, names of modules or of entry points.

    Raises:
      UserError: a module that is not there, cannot be imported, or has no tables; a name that two of them have.
    """
    built_in = (OBJECTIVES, METHODS, SOURCES, METRICS, FAMILIES, VERIFIERS, TRACKERS, TASKS, TOOLS)
    joined: dict[str, dict[str, Any]] = {table: dict(entries) for table, entries in zip(_SPECS, built_in)}
    owners: dict[tuple[str, str], str] = {}
    for plugin in plugins:
        if plugins.count(plugin) > 1:
            raise UserError(f"config.plugins: {plugin!r} is there twice")
        for table, entries in _tables_of(plugin).items():
            for name, spec in entries.items():
                if name in joined[table] or _is_ours(table, name):
                    owner = owners.get((table, name))
                    whose = f"that of {owner!r}" if owner else "one of the package's own"
                    raise UserError(
                        f"config.plugins: {plugin!r}: {table}[{name!r}] is {whose} already; give it another name"
                    )
                joined[table][name], owners[table, name] = spec, plugin
    return Tables(*(joined[table] for table in _SPECS), owners)


def _is_ours(table: str, name: str) -> bool:
    """Whether a name that is in no table of the package means something there."""
    taken = {
        "METHODS": name == "full",
        "METRICS": is_taken(name),
        "VERIFIERS": is_verifier_setting(name),
        "TASKS": is_setting(name),
        "TOOLS": is_tool_setting(name),
    }
    return taken.get(table, False)


def _tables_of(plugin: str) -> dict[str, Mapping[str, Any]]:
    """The tables of one plugin, checked."""
    module = _imported(plugin)
    found = {table: getattr(module, table) for table in _SPECS if hasattr(module, table)}
    if not found:
        near = next(filter(None, (nearest(name, _SPECS) for name in vars(module) if name.isupper())), "")
        raise UserError(f"config.plugins: {plugin!r} has no table: none of {', '.join(_SPECS)}{near}")
    for table, entries in found.items():
        where, spec = f"config.plugins: {plugin!r}: {table}", _SPECS[table]
        if not isinstance(entries, Mapping):
            raise UserError(f"{where}: expected a mapping of names to {spec.__name__}, got {type(entries).__name__}")
        for name, entry in entries.items():
            free = table == "FAMILIES" and isinstance(name, str)  # a model_type may have any characters
            if not free and not _is_name(name):
                raise UserError(f"{where}: {name!r}: expected the name of a setting: letters, digits and '_'")
            if not isinstance(entry, spec):
                raise UserError(f"{where}[{name!r}]: expected a {spec.__name__}, got {entry!r}"[:400])
            for field, declared in getattr(entry, "fields", {}).items():
                if not _is_name(field) or field in _TAKEN or not isinstance(declared, Field):
                    raise UserError(f"{where}[{name!r}].fields: {field!r}: expected names and `Field`s")
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def _imported(plugin: str) -> Any:
    """The module that an entry point or `plugin` itself names."""
    places = {entry.value for entry in importlib.metadata.entry_points(group=GROUP, name=plugin)}
    if len(places) > 1:
        raise UserError(
            f"config.plugins: {plugin!r} is an entry point of {' and of '.join(sorted(places))}: name the module"
        )
    name = places.pop() if places else plugin
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"config.plugins: {plugin!r}: expected the name of a module, such as 'mypkg.focal'")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{name}.".startswith(f"{e.name}."):  # a module that the plugin imports
            raise UserError(_failed(plugin, e)) from e
        known = sorted(entry.name for entry in importlib.metadata.entry_points(group=GROUP))
        raise UserError(
            f"config.plugins: there is no module {name!r} ({e}): install what has it, or put its folder on PYTHONPATH"
            f"{nearest(plugin, known)}"
        ) from e
    except (Exception, SystemExit) as e:
        raise UserError(_failed(plugin, e)) from e


def _failed(plugin: str, error: BaseException) -> str:
    """What a plugin that cannot be imported did, with the line of a module that was being imported."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"config.plugins: {plugin!r} cannot be imported: {place}{type(error).__name__}: {' '.join(text.split())}"


@contextlib.contextmanager
def never_from(folder: pathlib.Path) -> Iterator[None]:
    """Meanwhile, modules that lie in `folder`, a run's, are not found: what is opened may be somebody else's, and executes
    nothing that the user has not installed."""
    inside = folder.resolve()
    removed = [(number, p) for number, p in enumerate(sys.path) if _lies_in(p or os.getcwd(), inside)]
    sys.path[:] = [p for p in sys.path if not _lies_in(p or os.getcwd(), inside)]
    guard = _Guard(inside)  # of a folder above it, `run.module` would lead into it
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)
        for number, path in removed:
            sys.path.insert(number, path)


def _lies_in(place: str, folder: pathlib.Path) -> bool:
    found = pathlib.Path(place).resolve()
    return folder == found or folder in found.parents


class _Guard:
    """A finder of modules that refuses those that lie in a folder, and leaves all others to the finders after it."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        places = (
            []
            if spec is None
            else [*(spec.submodule_search_locations or ()), spec.origin if spec.has_location else None]
        )
        if any(_lies_in(place, self._folder) for place in places if place):
            raise ModuleNotFoundError(f"{name} lies in {self._folder}, whose files are not executed", name=name)
