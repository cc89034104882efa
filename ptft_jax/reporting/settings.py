"""In which settings runs differ, for their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differing(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows {"setting", NAME: value, ...} of the settings that are not the same in all of these configs.

    Args:
      configs: name of a run -> its config, nested dicts as recorded. A setting that a config does not have is "-".
    """
    flat = {name: dict(_leaves(config, "")) for name, config in configs.items()}
    paths = dict.fromkeys(path for values in flat.values() for path in values)
    rows = []
    for path in paths:
        values = {name: theirs.get(path, "-") for name, theirs in flat.items()}
        first, *others = values.values()
        if any(other != first for other in others):
            rows.append({"setting": path.rstrip("_"), **{name: _shown(value) for name, value in values.items()}})
    return rows


def _leaves(values: Mapping[str, Any], prefix: str) -> Any:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: Any) -> Any:
    return repr(value) if isinstance(value, (str, list, tuple)) else value
