"""Which settings of a config say what a run computes; with others than the rest of them a run may be continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ptft_jax.config.defaults import fields, get, tree_of
from ptft_jax.config.metrics import RAW
from ptft_jax.config.plugins import tables
from ptft_jax.config.tree import HOW


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> value, in JSON's types, of what says what the run of a config (nested dicts) computes, and is not as by default.

    "plugins" are those that have what the config names: one of which only trackers are used, or metrics that select nothing,
    is not among them.

    Raises:
      UserError: see `ptft_jax.config.plugins.tables`.
    """
    plugins = tuple(get(config, "plugins", ()))
    every = {path: field for path, field in fields(tree_of(plugins)) if not path.startswith(HOW)}
    values = {path: get(config, path, field.default) for path, field in every.items()}
    owners = tables(plugins).owners
    values["plugins"] = sorted({owners[entry] for entry in _named(values) if entry in owners})
    values, defaults = json.loads(json.dumps([values, {path: field.default for path, field in every.items()}]))
    return {path: value for path, value in values.items() if value != defaults[path]}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "PATH: BEFORE -> NOW" of what two configs (nested dicts) have otherwise of all that says what is computed."""
    defaults = {path: field.default for path, field in fields(tree_of(tuple(get(now, "plugins", ()))))}
    old, new = computed(before), computed(now)
    return [
        f"{path.rstrip('_')}: {old.get(path, defaults.get(path))!r} -> {new.get(path, defaults.get(path))!r}"
        for path in dict.fromkeys((*defaults, *old))
        if old.get(path, ...) != new.get(path, ...)
    ]


def _named(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(table, name) of the entries that settings, by path, are computed with."""
    yield "OBJECTIVES", values["objective.name"]
    for method in values["tune.method"].split("+"):
        yield "METHODS", method
    sources = (
        values["data.source"],
        values["eval.source"],
        values["eval.answers.source"],
        values["eval.behavior.source"],
        *values["eval.behavior.also"],
        *(source for source, _ in values["data.mixture"]),
    )
    for source in sources:
        yield "SOURCES", source.partition(":")[0]
    for task in values["eval.behavior.tasks"]:
        yield "TASKS", task
    rewarding = (
        *values["eval.answers.verifiers"],
        *values["objective.policy.verifiers"],
        *values["eval.behavior.styles.verifiers"],
    )
    for verifier in (*rewarding, *(name for name, _ in values["rewards.combined.parts"])):
        yield "VERIFIERS", verifier
    for tool in values["tools.use"]:
        yield "TOOLS", tool
    yield "METRICS", values["select.metric"].rpartition("/")[2].removeprefix(RAW)
