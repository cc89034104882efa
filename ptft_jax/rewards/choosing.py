"""Verifiers by name, with the settings of a config."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards.base import Verifier, of_several
from ptft_jax.rewards.combined import Combined
from ptft_jax.rewards.function import Outside

COMBINED = "combined"


def chosen(
    names: Sequence[str],
    config: Any,
    field: str,
    built: Mapping[str, Verifier] = types.MappingProxyType({}),
    pinned: Mapping[str, str] = types.MappingProxyType({}),
) -> dict[str, Verifier]:
    """The verifiers that the setting `field` names, by name. Of others' settings none is read. A model that several ask is loaded once.

    Args:
      config: whose `rewards` have their settings, and whose `tables.verifiers` the verifiers.
      pinned: in the place of what names a model, by what that is known by (`Verifier.models`), of what it names that one checkpoint.
      built: those of the same config that are there already, by name, and loaded no model yet.

    Raises:
      UserError: one that is not known or is named twice, that lacks a setting, or whose package is not installed.
    """
    known = config.tables.verifiers
    for name in names:
        if name not in known:
            raise UserError(
                f"config.{field}: no verifier {name!r}: expected of {', '.join(known)}{nearest(name, known)}"
            )
        if list(names).count(name) > 1:
            raise UserError(f"config.{field}: {name!r} is named twice")
    found = {name: built[name] if name in built else _built(name, config, known, pinned) for name in names}
    models: dict[tuple[str, str], Any] = {}
    for verifier in (*built.values(), *found.values()):
        verifier.share(models)
    return found


def _built(name: str, config: Any, known: Mapping[str, Any], pinned: Mapping[str, str]) -> Verifier:
    settings = config.rewards[name].read_all() if known[name].fields else {}
    settings |= {"run": pinned[name]} if name in pinned else {}
    if "runs" in settings:
        settings["runs"] = [pinned.get(of_several(name, n), run) for n, run in enumerate(settings["runs"])]
    made = located(known[name].verifier)
    if not isinstance(made, type):
        return Outside(name, known[name].verifier, **config.rewards.function.read_all())
    if issubclass(made, Combined):
        weights = dict(settings["parts"])
        if COMBINED in weights:
            raise UserError(f"config.rewards.combined.parts: {COMBINED!r} is the sum itself")
        names = [name for name, _ in settings["parts"]]
        return made(parts=chosen(names, config, "rewards.combined.parts", pinned=pinned), weights=weights)
    if known[name].plugs:
        settings["plugins"] = config.plugins
    return made(**settings)
