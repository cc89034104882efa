"""Configs as changes of others."""

from __future__ import annotations

from typing import Any

from ptft_jax import config as configs


def with_changes(config: configs.Config, **changes: Any) -> configs.Config:
    """A copy of a config with dotted fields changed: with_changes(c, **{"data.length": 64}). Raises UserError."""
    values = configs.check(config, complete=False).as_dict()
    for path, value in changes.items():
        path = "init.from_" if path == "init.from" else path
        section = values
        *parents, last = path.split(".")
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
    out = configs.of(values, suggested_by=config)
    configs.own(out, changes)
    return out
