"""Configs: the tree of `ptft_jax.config.tree` as a ConfigDict, checked, and read with a memory of what was read.

`default()` gives the tree as an ml_collections ConfigDict, which config files change and flags override.
`check(config)` validates it and returns a `Section`, which remembers what was read, so that a setting that nothing
reads is an error and not a silent no-op. What a recipe suggests (`suggest`) and the user's own settings leave without
effect is no error: the run says that it is not read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ml_collections import ConfigDict

from ptft_jax.config import renamed, spans
from ptft_jax.config.field import Field, hashable, shown
from ptft_jax.config.other_names import advice
from ptft_jax.config.plugins import Tables, tables
from ptft_jax.config.tree import TREE, Config
from ptft_jax.errors import UserError, nearest
from ptft_jax.model.spec import contradictions

_SUGGESTED = "_suggested_by_recipe"  # the attribute of a ConfigDict that holds what `suggest` marked


def default(plugins: Sequence[str] = ()) -> Config:
    """A new tree with every default, those of the settings of plugins among them: a ConfigDict, locked, and typed by ml_collections.
    Editors and type checkers know it by the settings that it has (`Config`)."""
    plugins = _plugins(tuple(plugins))
    return cast(Config, ConfigDict({**_defaults(tree_of(plugins)), "plugins": plugins}).lock())


def extended(config: Config | ConfigDict, plugins: Sequence[str]) -> None:
    """Adds to a config the settings that `plugins` have and it lacks, at their defaults, and the plugins' names; without any
    plugins, nothing."""
    plugins = _plugins(tuple(dict.fromkeys((*config.get("plugins", ()), *plugins))))
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


def _plugins(given: Any) -> tuple[str, ...]:
    return TREE["plugins"].check("plugins", given)


def _defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.default if isinstance(v, Field) else _defaults(v) for k, v in tree.items()}


@functools.cache
def tree_of(plugins: tuple[str, ...]) -> Mapping[str, Any]:
    """The whole tree of settings: the package's own, and those of plugins: `objective.FIELD` and `tune.METHOD.FIELD`.

    Raises:
      UserError: see `ptft_jax.config.plugins.tables`; or a plugin's setting has a name that is taken.
    """
    if not plugins:
        return TREE
    known, objective, tune = tables(plugins), dict(TREE["objective"]), dict(TREE["tune"])
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
    return {**TREE, "objective": objective, "tune": tune}


def of(values: Mapping[str, Any] | Config, suggested_by: Any = None) -> Config:
    """A new tree with these values, locked; `suggested_by`: a config whose suggestions (`suggest`) are kept where the values are
    the same. Raises UserError."""
    checked = check(values, complete=False)
    out = default(checked.plugins)
    _assign(out, checked._values)
    if suggestions := _suggestions(suggested_by):
        _mark(out, dataclasses.replace(suggestions, values=dict(suggestions.values)))
    return out


@dataclasses.dataclass(frozen=True)
class _Suggestions:
    """What a recipe set, by field; `alone`: it is not refused, whether or not the user changed anything beside it."""

    values: dict[str, Any]
    alone: bool


def suggest(config: Config, *, alone: bool = False) -> Config:
    """Marks what a config holds as suggested by a recipe, and returns the config. Once the user changes some of it, the rest is
    not refused where that leaves it without effect; `alone`: it is never refused for having none. Copies of a ConfigDict lose the
    marks; `of` keeps them."""
    _mark(config, _Suggestions({path: hashable(get(config, path)) for path, _ in _fields_of(config)}, alone))
    return config


def own(config: Any, paths: Iterable[str]) -> None:
    """Says that the user set these fields: they are no suggestions of a recipe any more, even with the same value."""
    if suggestions := _suggestions(config):
        for path in paths:
            suggestions.values.pop("init.from_" if path == "init.from" else path, None)


def _mark(config: Config, suggestions: _Suggestions) -> None:
    object.__setattr__(config, _SUGGESTED, suggestions)  # no field of the config


def _suggestions(config: Any) -> _Suggestions | None:
    return vars(config).get(_SUGGESTED) if isinstance(config, ConfigDict) else None


def _suggested(config: Any, values: Mapping[str, Any]) -> frozenset[str]:
    """The fields that are as a recipe set them; none of a recipe that nobody changed: that has to be consistent."""
    if not (suggestions := _suggestions(config)):
        return frozenset()
    kept = frozenset(path for path, value in suggestions.values.items() if get(values, path) == value)
    return kept if suggestions.alone or len(kept) < len(list(_fields_of(values))) else frozenset()


def _fields_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    return fields(tree_of(_plugins(values["plugins"])))


def _assign(config: Config, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _assign(config[key], value)
        else:
            config[key] = value


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


def get(tree: Mapping[str, Any], path: str, *default: Any) -> Any:
    """The value at a dotted path of nested dicts; `default`, if given, where there is none."""
    for key in path.split("."):
        if default and key not in tree:
            return default[0]
        tree = tree[key]
    return tree


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
    plugins = _plugins(given.get("plugins", ()))
    values = _checked(given, tree_of(plugins), "", plugins)
    if complete:
        _check_together(values)
    suggested = _suggested(config, values) if suggested is None else suggested
    return Section(values, plugins, suggested=suggested, settled=settled)


def settle(values: dict[str, Any], suggested: frozenset[str]) -> dict[str, str]:
    """Changes what a recipe suggests and the rest of a config leaves without effect, or without room, in place: what would have
    no effect to its default, a warm-up that is too long for the run's steps to a tenth of them.

    Where `training.epochs` decides the steps, these are not known yet: `counted` does what depends on them.

    Returns:
      By field, what is to be said of it; "" = that it is not read.
    """
    settled, defaults = {}, dict(fields())
    for path, _ in _idle(values):
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
    if "optimizer.warmup_steps" in suggested and not _fits(o["schedule"], o["warmup_steps"], steps):
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
    _refuse(_late(values))
    values = check(values, complete=False)._values
    done = Section(
        values, section._plugins, read=section._read, suggested=section.suggested, settled={**section._settled, **found}
    )
    return check_effects(done, late=True)


def decided(values: dict[str, Any]) -> dict[str, Any]:
    """A config without `training.steps` where `training.epochs` decides them: what of it two launches of a run have alike."""
    t = values["training"]
    return {**values, "training": {**t, "steps": 0}} if t["epochs"] else values


def _fits(schedule: str, warmup: float, steps: int) -> bool:
    """Whether a warm-up leaves steps for what the schedule does after it."""
    warmup = spans.steps_of(warmup, steps)
    decay = 2 if schedule == "wsd" else 1 if _falls(schedule, steps) else 0
    return not warmup or warmup + decay <= max(steps, 1)


def _falls(schedule: str, steps: int) -> bool:
    # A run of one or two updates, to see that all works, has no shape of its rate.
    return schedule in ("cosine", "linear", "wsd", "rsqrt") and steps > 2


def _idle(c: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of `config.select` that are read, but have no effect beside others: (path, what is expected)."""
    s, nothing = c["select"], "where eval.every is 0: nothing is evaluated between start and end"
    if not c["eval"]["every"] and s["patience"]:
        yield "select.patience", f"0 {nothing}"
    if not c["eval"]["every"] and s["stop_over_budget"]:
        yield "select.stop_over_budget", f"False {nothing}"
    if not s["patience"] and s["min_delta"]:
        yield "select.min_delta", "0 where select.patience is 0: it says what counts as a gain for patience alone"


def check_effects(config: Section, *, late: bool = False) -> Section:
    """The config of a run that is to be carried out; `late`: its `training.steps` are those that `training.epochs` make. Raises UserError for settings that are valid, and would do nothing beside
    others: what `Section.refuse_unread` cannot tell, as they are read. Of runs that are there already nothing is asked."""
    c = config.as_dict()
    o, steps = c["optimizer"], c["training"]["steps"]
    rows = list(_idle(c))
    known, warmup = late or not c["training"]["epochs"], spans.steps_of(o["warmup_steps"], steps)
    if known and _falls(o["schedule"], steps) and warmup and warmup >= steps:
        rows.insert(0, ("optimizer.warmup_steps", f"steps that are left for the decay of optimizer.schedule = {o['schedule']!r}: less than training.steps {steps!r}"))  # fmt: skip
    for path, expected in rows:
        raise UserError(f"config.{path} = {spans.text(get(c, path))}: expected {expected}")
    return config


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


def _check_together(c: dict[str, Any]) -> None:
    """Contradictions between fields, each message naming both."""
    m, d, t = c["model"], c["data"], c["training"]
    rows = [
        (d["length"] <= m["max_length"], "data.length", d["length"], "at most model.max_length", m["max_length"]),
        (d["batch_size"] % t["micro_batches"] == 0, "data.batch_size", d["batch_size"], "a multiple of training.micro_batches", t["micro_batches"]),
        *([] if t["epochs"] else _late(c)),
        (c["parallel"]["compile"] == "jit" or c["parallel"]["fsdp"] == 1, "parallel.compile", "pmap", "parallel.fsdp=1 (pmap copies the state), not", c["parallel"]["fsdp"]),
    ]  # fmt: skip
    _refuse(rows)
    for name, value, expected in contradictions(m):
        raise UserError(f"config.model.{name} = {value!r}: expected {expected}")


def _late(c: Mapping[str, Any]) -> list[tuple[bool, str, Any, str, Any]]:
    """Contradictions of `training.steps` with other fields."""
    warmup, steps = c["optimizer"]["warmup_steps"], c["training"]["steps"]
    fits = spans.steps_of(warmup, steps) <= max(steps, 1)
    return [(fits, "optimizer.warmup_steps", warmup, "at most training.steps", steps)]


def _refuse(rows: Iterable[tuple[bool, str, Any, str, Any]]) -> None:
    for good, path, value, expected, other in rows:
        if not good:
            raise UserError(f"config.{path} = {spans.text(value)}: expected {expected} {other!r}")
