"""Configs: the tree of `ptft_jax.config.tree` as a ConfigDict, checked, and read with a memory of what was read.

`default()` gives the tree as an ml_collections ConfigDict, which config files change and flags override.
`check(config)` validates it and returns a `Section`, which remembers what was read, so that a setting that nothing
reads is an error and not a silent no-op. What a recipe suggests (`suggest`) and the user's own settings leave without
effect is no error: the run says that it is not read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from ptft_jax.config import contradictions, renamed, spans, suggestions
from ptft_jax.config.defaults import default, fields, get, plugins_of, tree_of
from ptft_jax.config.field import Field, shown
from ptft_jax.config.other_names import advice
from ptft_jax.config.plugins import Tables, tables
from ptft_jax.config.tree import TREE, Config
from ptft_jax.errors import UserError, nearest

if TYPE_CHECKING:
    _Form = Config
else:
    _Form = object


class Section(_Form):
    """A validated part of the config, read by attribute or key. The tree as a whole knows what was read. To type checkers it is
    the whole config.

    Attributes:
      suggested: of the whole tree, the fields that are as a recipe set them.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        plugins: tuple[str, ...] = (),
        path: str = "",
        read: set[str] | None = None,
        suggested: frozenset[str] = frozenset(),
        settled: Mapping[str, str] | None = None,
    ):
        self._values, self._plugins, self._path = values, plugins, path
        self._read = {"plugins"} if read is None else read
        self.suggested, self._settled = suggested, settled or {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._values[name]
        except KeyError:
            raise AttributeError(f"config.{self._path}{name} is not declared in ptft_jax.config.tree") from None
        path = self._path + name
        if isinstance(value, Mapping):
            return Section(value, self._plugins, path + ".", self._read)
        self._read.add(path)
        return value

    __getitem__ = __getattr__

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def read_all(self) -> dict[str, Any]:
        """Every value of this section as a plain dict."""
        return {name: getattr(self, name) for name in self._values}

    @property
    def tables(self) -> Tables:
        """What can be named here: the package's own and its plugins'."""
        return tables(self._plugins)

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Every (dotted path, Field) of the whole tree, its plugins' among them."""
        return fields(tree_of(self._plugins))

    def default(self, name: str) -> Any:
        """The default of a setting of this section."""
        return get(tree_of(self._plugins), self._path + name).default

    def refuse_unread(self) -> list[str]:
        """Raises UserError for a setting that was changed from its default but that nothing has read. What a recipe suggested is
        told in messages, which are returned."""
        unread = [path for path, said in self._settled.items() if not said]
        for path, field in self.fields():
            value = get(self._values, path)
            if value == field.default or path in self._read:
                continue
            if path not in self.suggested:
                said = f"config.{path.rstrip('_')} = {field.text(value)} is set, but nothing in this run reads it"
                if needs := self._needs(path):
                    raise UserError(f"{said}: {needs}; leave it at {field.text(field.default)}, or set that")
                raise UserError(
                    f"{said} ({field.meaning}); leave it at {field.text(field.default)} or change what makes it matter"
                )
            unread.append(path)
        told = [f"not read: {', '.join(path.rstrip('_') for path in unread)} (recipe)"] if unread else []
        return told + [said for said in self._settled.values() if said]

    def refuse_of_other_methods(self) -> None:
        """Raises UserError for a setting of a way of tuning that is not the run's, unless a recipe suggested it: `refuse_unread` would,
        after all else has been read."""
        for path, field in self.fields():
            if get(self._values, path) != field.default and path not in self.suggested and (needs := self._needs(path)):
                raise UserError(f"config.{path} = {field.text(get(self._values, path))} is set, but {needs}")

    def _needs(self, path: str) -> str:
        """Of settings of one way of tuning, which way they need, where it is not the run's; "" of others."""
        method, parts = get(self._values, "tune.method"), path.split(".")
        if path == "tune.train":
            needed = "full"
        elif len(parts) == 3 and parts[0] == "tune" and parts[1] in self.tables.methods:
            needed = parts[1]
        else:
            return ""
        if needed in method.split("+"):
            return ""
        return f"{path} needs tune.method={needed}, and config.tune.method = {method!r}"

    def as_dict(self) -> dict[str, Any]:
        """The resolved values as plain nested dicts."""
        return json.loads(json.dumps(self._values))


def check(
    config: Mapping[str, Any] | Config,
    *,
    complete: bool = True,
    suggested: frozenset[str] | None = None,
    settled: Mapping[str, str] | None = None,
) -> Section:
    """Validates a config (ConfigDict or nested dict).

    Args:
      complete: also refuse fields that contradict each other; not where a parent's are still to be filled in.
      suggested, settled: of a config that was made of another one, its `Section.suggested` and what `settle` found.

    Raises:
      UserError: an undeclared field (with the nearest declared one), a wrong type, a value out of range, or fields
        that contradict each other.
    """
    if not isinstance(config, (ConfigDict, Mapping)):
        raise UserError(f"config = {shown(config)}: expected a section with {', '.join(TREE)}")
    given = config.to_dict() if isinstance(config, ConfigDict) else config
    plugins = plugins_of(given.get("plugins", ()))
    values = _checked(given, tree_of(plugins), "", plugins)
    if complete:
        contradictions.check_together(values)
    suggested = suggestions.suggested(config, values) if suggested is None else suggested
    return Section(values, plugins, suggested=suggested, settled=settled)


def _checked(
    given: Mapping[str, Any], tree: Mapping[str, Any], prefix: str, plugins: tuple[str, ...]
) -> dict[str, Any]:
    if names := [key for key in given if not isinstance(key, str)]:
        raise UserError(f"config.{prefix}{shown(names[0])} is not a setting: the names of settings are texts")
    if "from" in given and "from_" in given:
        raise UserError(f"config.{prefix}from and config.{prefix}from_ are one setting: give it once")
    given = {("from_" if key == "from" else key): value for key, value in given.items()}
    for key in given:
        if key not in tree:
            if now := renamed.said(prefix + key):
                raise UserError(now)
            paths = [path for path, _ in fields(tree_of(plugins))]
            near = advice(prefix + key, paths) or nearest(key, [p.rsplit(".")[-1] for p in paths])
            raise UserError(f"config.{prefix}{key} is not a setting{near}")
    out = {}
    for key, declared in tree.items():
        if isinstance(declared, Field):
            out[key] = declared.check(prefix + key, given.get(key, declared.default))
        else:
            part = given.get(key, {})
            if not isinstance(part, Mapping):
                raise UserError(f"config.{prefix}{key} = {shown(part)}: expected a section with {', '.join(declared)}")
            out[key] = _checked(part, declared, f"{prefix}{key}.", plugins)
    return out


def of(values: Mapping[str, Any] | Config, suggested_by: Any = None) -> Config:
    """A new tree with these values, locked; `suggested_by`: a config whose suggestions (`suggest`) are kept where the values are
    the same. Raises UserError."""
    checked = check(values, complete=False)
    out = default(checked.plugins)
    _assign(out, checked._values)
    if found := suggestions.suggestions(suggested_by):
        suggestions.mark(out, dataclasses.replace(found, values=dict(found.values)))
    return out


def _assign(config: Config, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _assign(config[key], value)
        else:
            config[key] = value


def settle(values: dict[str, Any], suggested: frozenset[str]) -> dict[str, str]:
    """Changes what a recipe suggests and the rest of a config leaves without effect, or without room, in place: what would have
    no effect to its default, a warm-up that is too long for the run's steps to a tenth of them.

    Where `training.epochs` decides the steps, these are not known yet: `counted` does what depends on them.

    Returns:
      By field, what is to be said of it; "" = that it is not read.
    """
    settled, defaults = {}, dict(fields())
    for path, _ in contradictions.idle(values):
        if path in suggested:
            values["select"][path.removeprefix("select.")] = defaults[path].default
            settled[path] = ""
    t = values["training"]
    if t["epochs"] and "training.epochs" in suggested and "training.steps" not in suggested:
        settled["training.epochs"] = (
            f"training.steps = {t['steps']:,} in place of training.epochs = {t['epochs']:g} (recipe)"
        )
        t["epochs"] = 0.0
    return settled | ({} if t["epochs"] else _settle_warmup(values, suggested))


def _settle_warmup(values: dict[str, Any], suggested: frozenset[str]) -> dict[str, str]:
    settled = {}
    o, steps = values["optimizer"], values["training"]["steps"]
    if "optimizer.warmup_steps" in suggested and not contradictions.fits_steps(o["schedule"], o["warmup_steps"], steps):
        settled["optimizer.warmup_steps"] = (
            f"optimizer.warmup_steps: {steps // 10}, a tenth of training.steps = {steps}, in place of {spans.text(o['warmup_steps'])} (recipe)"
        )
        o["warmup_steps"] = float(steps // 10)
    return settled


def settled(config: Mapping[str, Any] | Config) -> Section:
    """A config that no parent completes, checked, with what `settle` changes. Raises UserError."""
    section = check(config, complete=False)
    values = section.as_dict()
    found = settle(values, section.suggested)
    return check(values, suggested=section.suggested, settled=found)


def counted(section: Section, steps: int) -> Section:
    """The config of a run whose `training.epochs` make so many steps, with these as `training.steps`. Raises UserError for other
    `training.steps` that the user gave, and for settings that do not fit into these."""
    values, default = section.as_dict(), TREE["training"]["steps"].default
    t, mine = values["training"], "training.steps" not in section.suggested
    given = t["steps"] if mine and (section.suggested or t["steps"] != default) else None
    spans.check_epochs(t["epochs"], given, steps, values["data"]["max_epochs"])
    t["steps"] = steps
    found = _settle_warmup(values, section.suggested)
    contradictions.refuse(contradictions.of_steps(values))
    values = check(values, complete=False)._values
    done = Section(
        values, section._plugins, read=section._read, suggested=section.suggested, settled={**section._settled, **found}
    )
    return contradictions.check_effects(done, late=True)


def decided(values: dict[str, Any]) -> dict[str, Any]:
    """A config without `training.steps` where `training.epochs` decides them: what of it two launches of a run have alike."""
    t = values["training"]
    return {**values, "training": {**t, "steps": 0}} if t["epochs"] else values
