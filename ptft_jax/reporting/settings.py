"""In which settings runs differ, for their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.config import spans


def differing(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows {"setting", NAME: value, ...} of the settings that are not the same in all of these configs.

    Args:
      configs: name of a run -> its config, nested dicts as recorded. A setting that a config does not have is "-".
    """
    flat = {name: dict(_leaves(config, "")) for name, config in configs.items()}
    paths = dict.fromkeys(path for values in flat.values() for path in values)
    rows = []
    for path in paths:
        values = {name: spans.text(theirs[path]) if path in theirs else "-" for name, theirs in flat.items()}
        if len(set(values.values())) > 1:
            rows.append({"setting": path.rstrip("_"), **values})
    return rows


def _leaves(values: Mapping[str, Any], prefix: str) -> Any:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
