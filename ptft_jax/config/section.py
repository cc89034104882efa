"""Configs: the tree of `ptft_jax.config.tree` as a ConfigDict, checked, and read with a memory of what was read.

`default()` gives the tree as an ml_collections ConfigDict, which config files change and flags override.
`check(config)` validates it and returns a `Section`, which remembers what was read, so that a setting that nothing
reads is an error and not a silent no-op.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ptft_jax.config.field import Field, shown
from ptft_jax.config.tree import HOW, TREE
from ptft_jax.errors import UserError, nearest
from ptft_jax.model.spec import contradictions

__all__ = ["HOW", "Section", "check", "check_effects", "choose", "default", "fields", "get"]


def default() -> ConfigDict:
    """A new tree with every default: locked, and typed by ml_collections."""

    def build(tree):
        return {k: v.default if isinstance(v, Field) else build(v) for k, v in tree.items()}

    return ConfigDict(build(TREE)).lock()


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name], for the argument of a config file. Raises UserError with the valid names."""
    if name not in table:
        raise UserError(f"no {what} {name!r}: expected one of {', '.join(table)}{nearest(name, table)}")
    return table[name]


def fields(tree: Mapping[str, Any] = TREE, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every (dotted path, Field) of the tree."""
    for key, value in tree.items():
        if isinstance(value, Field):
            yield prefix + key, value
        else:
            yield from fields(value, f"{prefix}{key}.")


class Section:
    """A validated part of the config, read by attribute or key. The tree as a whole knows what was read."""

    def __init__(self, values: Mapping[str, Any], path: str = "", read: set[str] | None = None):
        self._values, self._path, self._read = values, path, set() if read is None else read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._values[name]
        except KeyError:
            raise AttributeError(f"config.{self._path}{name} is not declared in ptft_jax.config.tree") from None
        path = self._path + name
        if isinstance(value, Mapping):
            return Section(value, path + ".", self._read)
        self._read.add(path)
        return value

    __getitem__ = __getattr__

    def read_all(self) -> dict[str, Any]:
        """Every value of this section as a plain dict."""
        return {name: getattr(self, name) for name in self._values}

    def refuse_unread(self) -> None:
        """Raises UserError for a setting that was changed from its default but that nothing has read."""
        for path, field in fields():
            value = get(self._values, path)
            if value != field.default and path not in self._read:
                raise UserError(
                    f"config.{path.rstrip('_')} = {value!r} is set, but nothing in this run reads it ({field.meaning}); "
                    f"leave it at {field.default!r} or change what makes it matter"
                )

    def as_dict(self) -> dict[str, Any]:
        """The resolved values as plain nested dicts."""
        return json.loads(json.dumps(self._values))


def get(tree: Mapping[str, Any], path: str, *default: Any) -> Any:
    """The value at a dotted path of nested dicts; `default`, if given, where there is none."""
    for key in path.split("."):
        if default and key not in tree:
            return default[0]
        tree = tree[key]
    return tree


def check(config: Mapping[str, Any], *, complete: bool = True) -> Section:
    """Validates a config (ConfigDict or nested dict).

    Args:
      complete: also refuse fields that contradict each other; not where a parent's are still to be filled in.

    Raises:
      UserError: an undeclared field (with the nearest declared one), a wrong type, a value out of range, or fields
        that contradict each other.
    """
    if not isinstance(config, (ConfigDict, Mapping)):
        raise UserError(f"config = {shown(config)}: expected a section with {', '.join(TREE)}")
    values = _checked(config.to_dict() if isinstance(config, ConfigDict) else config, TREE, "")
    if complete:
        _check_together(values)
    return Section(values)


def check_effects(config: Section) -> Section:
    """The config of a run that is to be carried out. Raises UserError for settings that are valid, and would do nothing beside
    others: what `Section.refuse_unread` cannot tell, as they are read. Of runs that are there already nothing is asked."""
    c = config.as_dict()
    o, s, steps, every = c["optimizer"], c["select"], c["training"]["steps"], c["eval"]["every"]
    # A run of one or two updates, to see that all works, has no shape of its rate.
    falls = o["schedule"] in ("cosine", "linear", "wsd", "rsqrt") and steps > 2
    rows = [
        (not falls or not o["warmup_steps"] or o["warmup_steps"] < steps, "optimizer.warmup_steps", o["warmup_steps"], f"steps that are left for the decay of optimizer.schedule = {o['schedule']!r}: less than training.steps {steps!r}"),
        (every or not s["patience"], "select.patience", s["patience"], "0 where eval.every is 0: nothing is evaluated between start and end"),
        (every or not s["stop_over_budget"], "select.stop_over_budget", s["stop_over_budget"], "False where eval.every is 0: nothing is evaluated between start and end"),
        (s["patience"] or not s["min_delta"], "select.min_delta", s["min_delta"], "0 where select.patience is 0: it says what counts as a gain for patience alone"),
    ]  # fmt: skip
    for good, path, value, expected in rows:
        if not good:
            raise UserError(f"config.{path} = {value!r}: expected {expected}")
    return config


def _checked(given: Mapping[str, Any], tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    if names := [key for key in given if not isinstance(key, str)]:
        raise UserError(f"config.{prefix}{shown(names[0])} is not a setting: the names of settings are texts")
    given = {("from_" if key == "from" else key): value for key, value in given.items()}
    for key in given:
        if key not in tree:
            paths = [path for path, _ in fields()]
            near = nearest(prefix + key, paths) or nearest(key, [p.rsplit(".")[-1] for p in paths])
            raise UserError(f"config.{prefix}{key} is not a setting{near}")
    out = {}
    for key, declared in tree.items():
        if isinstance(declared, Field):
            out[key] = declared.check(prefix + key, given.get(key, declared.default))
        else:
            part = given.get(key, {})
            if not isinstance(part, Mapping):
                raise UserError(f"config.{prefix}{key} = {shown(part)}: expected a section with {', '.join(declared)}")
            out[key] = _checked(part, declared, f"{prefix}{key}.")
    return out


def _check_together(c: dict[str, Any]) -> None:
    """Contradictions between fields, each message naming both."""
    m, d, t = c["model"], c["data"], c["training"]
    rows = [
        (d["length"] <= m["max_length"], "data.length", d["length"], "at most model.max_length", m["max_length"]),
        (d["batch_size"] % t["micro_batches"] == 0, "data.batch_size", d["batch_size"], "a multiple of training.micro_batches", t["micro_batches"]),
        (c["optimizer"]["warmup_steps"] <= max(t["steps"], 1), "optimizer.warmup_steps", c["optimizer"]["warmup_steps"], "at most training.steps", t["steps"]),
        (c["parallel"]["compile"] == "jit" or c["parallel"]["fsdp"] == 1, "parallel.compile", "pmap", "parallel.fsdp=1 (pmap copies the state), not", c["parallel"]["fsdp"]),
    ]  # fmt: skip
    for good, path, value, expected, other in rows:
        if not good:
            raise UserError(f"config.{path} = {value!r}: expected {expected} {other!r}")
    for name, value, expected in contradictions(m):
        raise UserError(f"config.model.{name} = {value!r}: expected {expected}")
