"""What a recipe suggests in a config: the user's own settings may leave it without effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ptft_jax.config.defaults import fields, get, plugins_of, tree_of
from ptft_jax.config.field import Field, hashable
from ptft_jax.config.tree import Config

_SUGGESTED = "_suggested_by_recipe"  # the attribute of a ConfigDict that holds what `suggest` marked


@dataclasses.dataclass(frozen=True)
class Suggestions:
    """What a recipe set, by field; `alone`: it is not refused, whether or not the user changed anything beside it."""

    values: dict[str, Any]
    alone: bool


def suggest(config: Config, *, alone: bool = False) -> Config:
    """Marks what a config holds as suggested by a recipe, and returns the config. Once the user changes some of it, the rest is
    not refused where that leaves it without effect; `alone`: it is never refused for having none. Copies of a ConfigDict lose the
    marks; `of` keeps them."""
    mark(config, Suggestions({path: hashable(get(config, path)) for path, _ in _fields_of(config)}, alone))
    return config


def own(config: Any, paths: Iterable[str]) -> None:
    """Says that the user set these fields: they are no suggestions of a recipe any more, even with the same value."""
    if found := suggestions(config):
        for path in paths:
            found.values.pop("init.from_" if path == "init.from" else path, None)


def mark(config: Config, suggestions: Suggestions) -> None:
    """Marks a config with these."""
    object.__setattr__(config, _SUGGESTED, suggestions)  # no field of the config


def suggestions(config: Any) -> Suggestions | None:
    """What a config was marked with; None of one without marks."""
    return vars(config).get(_SUGGESTED) if isinstance(config, ConfigDict) else None


def suggested(config: Any, values: Mapping[str, Any]) -> frozenset[str]:
    """The fields that are as a recipe set them; none of a recipe that nobody changed: that has to be consistent."""
    if not (found := suggestions(config)):
        return frozenset()
    kept = frozenset(path for path, value in found.values.items() if get(values, path) == value)
    return kept if found.alone or len(kept) < len(list(_fields_of(values))) else frozenset()


def _fields_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    return fields(tree_of(plugins_of(values["plugins"])))
