"""Settings that have another name than in earlier versions. In a user's config the old name is an error that names the new
one; in what a finished run recorded it is read as the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {"tune.prefix.reparametrise": "tune.prefix.reparameterize"}  # old path -> path


def current(recorded: Any) -> Any:
    """A config as some version of this package recorded it (nested dicts), with today's names of settings;
    anything else as it is."""
    if not isinstance(recorded, Mapping):
        return recorded
    values = _copied(recorded)
    for old, new in RENAMED.items():
        *parents, name = old.split(".")
        section = _section(values, parents)
        if section is not None and name in section:
            value = section.pop(name)
            *parents, name = new.split(".")
            section = _section(values, parents)
            if section is not None:
                section.setdefault(name, value)
    return values


def said(old: str, prefix: str = "config.") -> str:
    """The message for the old name of a setting, a dotted path; "" of any other name."""
    return f"{prefix}{old} is now {prefix}{RENAMED[old]}" if old in RENAMED else ""


def said_of_last(name: str) -> str:
    """As `said`, of a setting by the last part of its path."""
    return next((said(old) for old in RENAMED if old.rpartition(".")[2] == name), "")


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _section(values: Any, path: list[str]) -> dict[str, Any] | None:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else None
