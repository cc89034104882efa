"""The tree of settings with those of plugins, and configs with its defaults."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ml_collections import ConfigDict

from ptft_jax.config.field import Field
from ptft_jax.config.plugins import tables
from ptft_jax.config.tree import TREE, Config
from ptft_jax.errors import UserError, nearest


def default(plugins: Sequence[str] = ()) -> Config:
    """A new tree with every default, those of the settings of plugins among them: a ConfigDict, locked, and typed by ml_collections.
    Editors and type checkers know it by the settings that it has (`Config`)."""
    plugins = plugins_of(tuple(plugins))
    return cast(Config, ConfigDict({**_defaults(tree_of(plugins)), "plugins": plugins}).lock())


def extended(config: Config | ConfigDict, plugins: Sequence[str]) -> None:
    """Adds to a config the settings that `plugins` have and it lacks, at their defaults, and the plugins' names; without any
    plugins, nothing."""
    plugins = plugins_of(tuple(dict.fromkeys((*config.get("plugins", ()), *plugins))))
    if not plugins:
        return

    def add(section: ConfigDict, tree: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, Field):
                if name not in known and name not in section:
                    section[name] = value.default
            elif value is not known.get(name):
                if name not in section:
                    section[name] = ConfigDict()
                add(section[name], value, known.get(name, {}))

    with config.unlocked():
        add(config, tree_of(plugins), TREE)
        config.plugins = plugins


def plugins_of(given: Any) -> tuple[str, ...]:
    """The checked names of plugins. Raises UserError."""
    return TREE["plugins"].check("plugins", given)


def _defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.default if isinstance(v, Field) else _defaults(v) for k, v in tree.items()}


@functools.cache
def tree_of(plugins: tuple[str, ...]) -> Mapping[str, Any]:
    """The whole tree of settings: the package's own, and those of plugins: `objective.FIELD`,
    `tune.METHOD.FIELD`, `rewards.VERIFIER.FIELD`, `tools.TOOL.FIELD` and `eval.behavior.TASK.FIELD`.

    Raises:
      UserError: see `ptft_jax.config.plugins.tables`; or a plugin's setting has a name that is taken.
    """
    if not plugins:
        return TREE
    known, objective, tune = tables(plugins), dict(TREE["objective"]), dict(TREE["tune"])
    rewards, tools = _with_more(TREE["rewards"], known.verifiers), _with_more(TREE["tools"], known.tools)
    evaluation, behavior = TREE["eval"], TREE["eval"]["behavior"]
    if measured := {name: task.fields for name, task in known.tasks.items() if task.fields and name not in behavior}:
        evaluation = {**evaluation, "behavior": {**behavior, **measured}}
    for name, spec in known.objectives.items():
        for field, declared in spec.fields.items():
            if objective.setdefault(field, declared) != declared:
                raise UserError(
                    f"config.plugins: OBJECTIVES[{name!r}] has a setting {field!r}, and config.objective.{field} is another's"
                )
    for name, spec in known.methods.items():
        if tune.setdefault(name, spec.fields) != spec.fields:
            raise UserError(
                f"config.plugins: METHODS[{name!r}]: config.tune.{name} is another setting; name it otherwise"
            )
    objective["name"] = dataclasses.replace(objective["name"], choices=tuple(known.objectives))
    return {**TREE, "objective": objective, "tune": tune, "rewards": rewards, "tools": tools, "eval": evaluation}


def _with_more(own: Mapping[str, Any], table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section with the settings of the entries of a table that it has not got."""
    added = {name: spec.fields for name, spec in table.items() if spec.fields and name not in own}
    return {**own, **added} if added else own


def fields(tree: Mapping[str, Any] = TREE, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every (dotted path, Field) of the tree."""
    for key, value in tree.items():
        if isinstance(value, Field):
            yield prefix + key, value
        else:
            yield from fields(value, f"{prefix}{key}.")


def get(tree: Mapping[str, Any], path: str, *default: Any) -> Any:
    """The value at a dotted path of nested dicts; `default`, if given, where there is none."""
    for key in path.split("."):
        if default and key not in tree:
            return default[0]
        tree = tree[key]
    return tree


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name], for the argument of a config file. Raises UserError with the valid names."""
    if name not in table:
        raise UserError(f"no {what} {name!r}: expected one of {', '.join(table)}{nearest(name, table)}")
    return table[name]
