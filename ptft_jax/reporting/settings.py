"""In which settings runs differ, for their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ptft_jax.config import spans
from ptft_jax.config.computed import computed
from ptft_jax.config.defaults import get

if TYPE_CHECKING:
    from ptft_jax.reporting.page import Page

# Settings that people ask for first, where they differ; then the others.
FIRST = (
    "optimizer.learning_rate",
    "tune.method",
    "tune.lora.rank",
    "training.steps",
    "training.epochs",
    "data.source",
)


def varied(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """For each name of a run: setting -> its value, of those that say what is computed and are not the same in all; `FIRST` before the others.
    Seed and parent are left out."""
    paths = sorted({path for config in configs.values() for path in computed(config)} - {"seed", "init.from_"})
    values = {name: {path: get(config, path, "-") for path in paths} for name, config in configs.items()}
    found = {row.pop("setting"): row for row in differing(values)}
    order = [*(path for path in FIRST if path in found), *(path for path in found if path not in FIRST)]
    return {
        name: {path: _text(theirs.get(path), found[path][name]) for path in order} for name, theirs in values.items()
    }


def _text(value: Any, spelled: str) -> str:
    return value if isinstance(value, str) else spelled


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


def show(page: Page, differs: Mapping[str, Mapping[str, str]]) -> None:
    """The part of a page that says in what runs differ, as of `varied`."""
    page.heading("In what they differ")
    if any(differs.values()):
        page.table([{"run": name, **values} for name, values in differs.items()])
    else:
        page.text("In nothing that says what is computed.")


def _leaves(values: Mapping[str, Any], prefix: str) -> Any:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
